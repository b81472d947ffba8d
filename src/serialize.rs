//! How fields are written by serde (feature `serde`) where a derive would not do. Names of fields are part of the
//! public face, as those of the types are; more may be added.
#![forbid(unsafe_code)]

use serde::Serializer;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

/// What `Display` says.
pub(crate) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// As [`text`], or nothing.
#[cfg(feature = "watch")]
pub(crate) fn optional_text<S: Serializer>(
    value: &Option<impl Display>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// What is not UTF-8 is replaced, since a report with a strange path is better than none.
pub(crate) fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// As a whole number.
pub(crate) fn nanoseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
