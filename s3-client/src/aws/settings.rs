//! What a bucket says of itself. Not every server knows these questions, and not every key may ask them.

use aws_sdk_s3::types::{
    BucketVersioningStatus, ExpirationStatus, LifecycleRule as SdkRule, ObjectLockEnabled,
};

use super::AwsStore;
use super::answer::{Asked, failure};
use crate::{Answer, BucketSettings, Error, ErrorKind, LifecycleRule, Op, Setting, Versioning};

const ASKED: Asked<'static> = Asked {
    op: Op::Bucket,
    key: "",
    if_match: false,
};

/// An error as a setting: unknown or denied; `NotConfigured` codes have been taken out before.
fn setting<T>(error: Error) -> Result<Setting<T>, Error> {
    match error.kind {
        ErrorKind::Unauthorized => Ok(Setting::Denied),
        // Servers that do not know a question answer it in many ways.
        ErrorKind::Unsupported | ErrorKind::Other | ErrorKind::NotFound => Ok(Setting::Unsupported),
        _ => Err(error),
    }
}

fn rule(rule: &SdkRule) -> LifecycleRule {
    #[expect(
        deprecated,
        reason = "old rules have their prefix outside of the filter"
    )]
    let old_prefix = rule.prefix();
    let filter = rule.filter();
    let prefix = filter
        .and_then(|filter| {
            filter
                .prefix()
                .or_else(|| filter.and().and_then(|and| and.prefix()))
        })
        .or(old_prefix)
        .unwrap_or_default();
    LifecycleRule {
        id: rule.id().unwrap_or_default().to_owned(),
        prefix: prefix.to_owned(),
        expires: rule
            .expiration()
            .is_some_and(|expiration| expiration.days().is_some() || expiration.date().is_some()),
        transitions: rule
            .transitions()
            .iter()
            .filter_map(|transition| transition.storage_class())
            .map(|class| class.as_str().to_owned())
            .collect(),
        expires_old_versions: rule.noncurrent_version_expiration().is_some(),
        aborts_uploads: rule.abort_incomplete_multipart_upload().is_some(),
    }
}

impl AwsStore {
    pub(super) async fn read_bucket_settings(&self) -> Result<Answer<BucketSettings>, Error> {
        let ask = self.ask().with_root("VersioningConfiguration");
        let request = self.client.get_bucket_versioning().bucket(&self.bucket);
        let versioning = match ask.attach(request.customize(), None).send().await {
            Ok(output) => Setting::Known(match output.status() {
                Some(BucketVersioningStatus::Enabled) => Versioning::On,
                Some(BucketVersioningStatus::Suspended) => Versioning::Suspended,
                _ => Versioning::Off,
            }),
            Err(error) => setting(failure(&error, ASKED).into_error(ASKED))?,
        };

        let ask = self.ask();
        let request = self
            .client
            .get_bucket_lifecycle_configuration()
            .bucket(&self.bucket);
        let lifecycle = match ask.attach(request.customize(), None).send().await {
            Ok(output) => Setting::Known(
                output
                    .rules()
                    .iter()
                    .filter(|rule| rule.status() == &ExpirationStatus::Enabled)
                    .map(rule)
                    .collect(),
            ),
            Err(error) if has_code(&error, "NoSuchLifecycleConfiguration") => {
                Setting::Known(Vec::new())
            }
            Err(error) => setting(failure(&error, ASKED).into_error(ASKED))?,
        };

        let ask = self.ask();
        let request = self
            .client
            .get_object_lock_configuration()
            .bucket(&self.bucket);
        let object_lock = match ask.attach(request.customize(), None).send().await {
            Ok(output) => Setting::Known(
                output
                    .object_lock_configuration()
                    .and_then(|lock| lock.object_lock_enabled())
                    == Some(&ObjectLockEnabled::Enabled),
            ),
            Err(error) if has_code(&error, "ObjectLockConfigurationNotFoundError") => {
                Setting::Known(false)
            }
            Err(error) => setting(failure(&error, ASKED).into_error(ASKED))?,
        };

        let settings = BucketSettings {
            versioning,
            lifecycle,
            object_lock,
        };
        Ok(self.answer(&ask, settings))
    }
}

pub(super) fn has_code(error: &impl aws_sdk_s3::error::ProvideErrorMetadata, code: &str) -> bool {
    error.code() == Some(code)
}
