//! What requests and bytes cost by the price list of an S3 endpoint.
//!
//! An estimate: what a provider rounds, gives for nothing or asks beyond that is not in it. Deletes are taken to cost nothing.

use std::fmt;
use std::str::FromStr;

use s3_client::{MeterSnapshot, Op};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::client::output::bytes;
use crate::config::S3Endpoint;

/// An amount of money in millionths of the unit of its currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub(crate) struct Price(pub(crate) u64);

/// Decimals of an amount.
const DECIMALS: usize = 6;
const UNIT: u64 = 1_000_000;
/// So many requests cost what the list says.
const REQUESTS: u128 = 1_000_000;
/// So many bytes cost what the list says.
const GIB: u128 = 1 << 30;

/// A text that is no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no price; write a number such as \"5.00\", with six decimals at most")]
pub(crate) struct PriceError(String);

impl FromStr for Price {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let fault = || PriceError(text.chars().take(40).collect());
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > DECIMALS {
            return Err(fault());
        }
        let whole: u64 = whole.parse().map_err(|_| fault())?;
        let part: u64 = format!("{part:0<DECIMALS$}").parse().map_err(|_| fault())?;
        let micros = whole.checked_mul(UNIT).and_then(|w| w.checked_add(part));
        micros.map(Self).ok_or_else(fault)
    }
}

impl fmt::Display for Price {
    /// With two decimals, and more of them where they are not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / UNIT, self.0 % UNIT);
        let part = format!("{part:06}");
        let shortest = part.trim_end_matches('0').len().max(2);
        write!(f, "{whole}.{}", &part[..shortest])
    }
}

impl Price {
    /// In units of the currency.
    pub(crate) fn units(self) -> f64 {
        self.0 as f64 / UNIT as f64
    }
}

impl Serialize for Price {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct Visitor;

impl serde::de::Visitor<'_> for Visitor {
    type Value = Price;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a price such as 5.00")
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Price, E> {
        value.to_string().parse().map_err(E::custom)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Price, E> {
        value.to_string().parse().map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Price, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

/// What is asked of a bucket, as providers bill it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Requests that store, copy or list.
    pub(crate) writes: u64,
    /// Requests that read or ask.
    pub(crate) reads: u64,
    /// Requests that delete, up to a thousand objects each.
    pub(crate) deletes: u64,
    /// Bytes of objects that leave the bucket.
    pub(crate) received: u64,
    /// Bytes of objects that are sent to it.
    pub(crate) sent: u64,
}

impl Demand {
    /// What was counted.
    pub(crate) fn of(meters: &MeterSnapshot) -> Self {
        let mut demand = Self::default();
        for op in Op::ALL {
            let counted = meters.op(op);
            let requests = match op {
                Op::Put
                | Op::Copy
                | Op::List
                | Op::CreateMultipart
                | Op::UploadPart
                | Op::CompleteMultipart
                | Op::CreateBucket => &mut demand.writes,
                Op::Get | Op::Head | Op::Bucket => &mut demand.reads,
                Op::Delete | Op::AbortMultipart => &mut demand.deletes,
            };
            *requests += counted.requests;
            demand.received += counted.bytes_in;
            demand.sent += counted.bytes_out;
        }
        demand
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            writes,
            reads,
            deletes,
            received,
            sent,
        } = *self;
        write!(
            f,
            "{writes} requests that store or list, {reads} that read, {deletes} that delete; {} received, {} sent",
            bytes(received),
            bytes(sent)
        )
    }
}

/// A price list, if the endpoint has one.
#[derive(Clone, Debug)]
pub(crate) struct PriceList {
    currency: String,
    writes: Price,
    reads: Price,
    gib_out: Price,
    gib_month: Price,
}

impl PriceList {
    /// That of an endpoint. Without a currency there is none.
    pub(crate) fn of(endpoint: &S3Endpoint) -> Option<Self> {
        Some(Self {
            currency: endpoint.price_currency.clone()?,
            writes: endpoint.price_writes,
            reads: endpoint.price_reads,
            gib_out: endpoint.price_gib_out,
            gib_month: endpoint.price_gib_month,
        })
    }

    /// What prices are in.
    pub(crate) fn currency(&self) -> &str {
        &self.currency
    }

    /// What a demand costs.
    pub(crate) fn price(&self, demand: &Demand) -> Price {
        let share =
            |price: Price, count: u64, of: u128| u128::from(price.0) * u128::from(count) / of;
        let sum = share(self.writes, demand.writes, REQUESTS)
            + share(self.reads, demand.reads, REQUESTS)
            + share(self.gib_out, demand.received, GIB);
        Price(u64::try_from(sum).unwrap_or(u64::MAX))
    }

    /// What it costs to keep so many bytes for a month.
    pub(crate) fn month(&self, stored: u64) -> Price {
        let sum = u128::from(self.gib_month.0) * u128::from(stored) / GIB;
        Price(u64::try_from(sum).unwrap_or(u64::MAX))
    }

    /// The price of a demand in words.
    pub(crate) fn said(&self, demand: &Demand) -> String {
        format!("{} {}", self.price(demand), self.currency)
    }

    /// What was asked so far, and what is stored, as members of a status.
    pub(crate) fn to_json(&self, demand: &Demand, stored: u64) -> Value {
        json!({
            "currency": self.currency,
            "requests": self.price(demand),
            "storage-month": self.month(stored),
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("5", Some(5_000_000), "5.00")]
    #[case("5.00", Some(5_000_000), "5.00")]
    #[case("0.4", Some(400_000), "0.40")]
    #[case("0.000001", Some(1), "0.000001")]
    #[case("12.345", Some(12_345_000), "12.345")]
    #[case("0", Some(0), "0.00")]
    #[case("", None, "")]
    #[case(".5", None, "")]
    #[case("-1", None, "")]
    #[case("1e3", None, "")]
    #[case("1.2345678", None, "")]
    #[case("99999999999999999999", None, "")]
    #[case("18446744073709551", None, "")]
    fn a_price_is_a_decimal(#[case] text: &str, #[case] micros: Option<u64>, #[case] shown: &str) {
        let price: Option<Price> = text.parse().ok();
        assert_eq!(price, micros.map(Price));
        if let Some(price) = price {
            assert_eq!(price.to_string(), shown);
        }
    }

    #[test]
    fn a_demand_is_billed() {
        let endpoint = S3Endpoint {
            price_currency: Some("EUR".to_owned()),
            price_writes: Price(5_000_000),
            price_reads: Price(400_000),
            price_gib_out: Price(90_000),
            price_gib_month: Price(23_000),
            ..S3Endpoint::default()
        };
        let list = PriceList::of(&endpoint).expect("a list");
        let demand = Demand {
            writes: 200_000,
            reads: 2_500_000,
            deletes: 1_000_000,
            received: 10 << 30,
            sent: 1 << 40,
        };
        assert_eq!(list.said(&demand), "2.90 EUR");
        assert_eq!(list.month(1 << 40).to_string(), "23.552");
        let all = Demand {
            writes: u64::MAX,
            reads: u64::MAX,
            received: u64::MAX,
            ..demand
        };
        assert!(list.price(&all) > list.price(&demand));
        assert!(PriceList::of(&S3Endpoint::default()).is_none());
    }
}
