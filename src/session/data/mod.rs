//! Published data in the form that it was not published in.
//!
//! Whoever hears a channel gets its data in its own form, whoever published it. In the form that it was
//! published in, data is passed on byte for byte; to the other it is mapped by the rule that
//! `docs/protocol.md` gives ("Data in the other form"). What one form has and the other has not becomes an
//! object with a single member that the other direction recognizes.

mod to_json;
mod to_msgpack;

pub use to_json::write_json;
pub(super) use to_json::{Unfit, check, json_bytes};
pub use to_msgpack::write_msgpack;

/// The member that stands for binary data in JSON: its value is base64.
const BASE64: &str = "$base64";

/// The member that stands for a MessagePack extension in JSON: its value is an array of the extension's
/// type and its bytes in base64.
const EXTENSION: &str = "$ext";

/// The member that holds a JSON document which has no other MessagePack form, as text.
const JSON: &str = "$json";

/// How many bytes a byte of MessagePack may become in JSON, at most: an extension of three bytes becomes
/// `{"$ext":[-128,"AA=="]}` and a comma.
pub(super) const MAX_GROWTH: usize = 8;

#[cfg(test)]
mod tests;
