//! What the bucket says of itself, in S3's shapes.

use s3s::dto::{
    AbortIncompleteMultipartUpload, BucketLocationConstraint, BucketVersioningStatus,
    ExpirationStatus, GetBucketLifecycleConfigurationOutput, GetBucketLocationOutput,
    GetBucketVersioningOutput, GetObjectLockConfigurationOutput, LifecycleExpiration,
    LifecycleRule as Rule, LifecycleRuleFilter, NoncurrentVersionExpiration,
    ObjectLockConfiguration, ObjectLockEnabled, Transition,
};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::answers::not_implemented;
use crate::store::{LifecycleRule, Setting, Versioning};

/// A store's rules say what they do and not after how long; S3's shape needs a number.
const DAYS: i32 = 1;

fn known<T>(setting: Setting<T>) -> S3Result<T> {
    match setting {
        Setting::Known(value) => Ok(value),
        Setting::Unsupported => Err(not_implemented("this server does not know the setting")),
        Setting::Denied => Err(S3Error::with_message(
            S3ErrorCode::AccessDenied,
            "Access Denied",
        )),
    }
}

/// S3 calls its first region by no name.
pub(super) fn location(region: &str) -> GetBucketLocationOutput {
    let named = region != "us-east-1" && !region.is_empty();
    GetBucketLocationOutput {
        location_constraint: named.then(|| BucketLocationConstraint::from(region.to_owned())),
    }
}

pub(super) fn versioning(setting: Setting<Versioning>) -> S3Result<GetBucketVersioningOutput> {
    let status = match known(setting)? {
        Versioning::Off => None,
        Versioning::On => Some(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
    };
    Ok(GetBucketVersioningOutput {
        status: status.map(BucketVersioningStatus::from_static),
        ..GetBucketVersioningOutput::default()
    })
}

pub(super) fn lifecycle(
    setting: Setting<Vec<LifecycleRule>>,
) -> S3Result<GetBucketLifecycleConfigurationOutput> {
    let rules = known(setting)?;
    if rules.is_empty() {
        return Err(S3Error::with_message(
            S3ErrorCode::NoSuchLifecycleConfiguration,
            "The lifecycle configuration does not exist",
        ));
    }
    Ok(GetBucketLifecycleConfigurationOutput {
        rules: Some(rules.into_iter().map(rule).collect()),
        ..GetBucketLifecycleConfigurationOutput::default()
    })
}

fn rule(rule: LifecycleRule) -> Rule {
    let transitions = rule.transitions.into_iter().map(|class| Transition {
        days: Some(DAYS),
        storage_class: Some(class.into()),
        ..Transition::default()
    });
    Rule {
        id: Some(rule.id),
        status: ExpirationStatus::from_static(ExpirationStatus::ENABLED),
        filter: Some(LifecycleRuleFilter {
            prefix: Some(rule.prefix),
            ..LifecycleRuleFilter::default()
        }),
        prefix: None,
        expiration: rule.expires.then(|| LifecycleExpiration {
            days: Some(DAYS),
            ..LifecycleExpiration::default()
        }),
        transitions: Some(transitions.collect()),
        noncurrent_version_transitions: None,
        noncurrent_version_expiration: rule.expires_old_versions.then(|| {
            NoncurrentVersionExpiration {
                noncurrent_days: Some(DAYS),
                ..NoncurrentVersionExpiration::default()
            }
        }),
        abort_incomplete_multipart_upload: rule.aborts_uploads.then_some(
            AbortIncompleteMultipartUpload {
                days_after_initiation: Some(DAYS),
            },
        ),
    }
}

pub(super) fn object_lock(setting: Setting<bool>) -> S3Result<GetObjectLockConfigurationOutput> {
    if !known(setting)? {
        return Err(S3Error::with_message(
            S3ErrorCode::ObjectLockConfigurationNotFoundError,
            "Object Lock configuration does not exist for this bucket",
        ));
    }
    Ok(GetObjectLockConfigurationOutput {
        object_lock_configuration: Some(ObjectLockConfiguration {
            object_lock_enabled: Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED)),
            rule: None,
        }),
    })
}
