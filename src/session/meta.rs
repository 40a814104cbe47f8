//! What the engine carries beside published data without looking at it: in which form the data is, who
//! published it, and the name of its conflation key.
//!
//! The first byte is the form's number. Nothing follows for most messages, whose publisher is nobody in
//! particular and which have no key. Otherwise: a byte with the length of the user's id (0: nobody), the id,
//! and the key's name to the end.

use super::form::Form;
use crate::config::limits::MAX_USER_ID_BYTES;
use crate::hub::Publication;
use bytes::Bytes;
use foldhash::quality::FixedState;
use std::hash::BuildHasher as _;

/// The length of a user's id must fit into its byte.
const _: () = assert!(MAX_USER_ID_BYTES <= u8::MAX as usize);

/// The number of a key must be the same on every shard, and they share no secret, so the hash is a fixed
/// one. Whoever looks for two keys with the same number can only make messages of a channel replace each
/// other that it may publish to, and for that it could as well use the other's key.
const KEY_SEED: u64 = 0x6b65_795f_7365_6564;

/// What a publication says about its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta<'a> {
    /// The form of the data.
    pub(super) form: Form,
    /// The publisher.
    pub(super) user: Option<&'a str>,
    /// The key's name.
    pub(super) key: Option<&'a str>,
}

impl<'a> Meta<'a> {
    /// A publication of `data`, which is copied.
    pub(super) fn publication(self, data: &[u8]) -> Publication {
        Publication {
            key: self.key.map_or(0, number),
            meta: self.write(),
            data: Bytes::copy_from_slice(data),
        }
    }

    fn write(self) -> Bytes {
        let (user, key) = (self.user.unwrap_or_default(), self.key.unwrap_or_default());
        if user.is_empty() && key.is_empty() {
            return Bytes::from_static(match self.form {
                Form::Json => &[0],
                Form::MessagePack => &[1],
            });
        }
        // Ids are never longer (see above); what no length fits belongs to nobody.
        let length = u8::try_from(user.len()).unwrap_or(0);
        let mut meta = Vec::with_capacity(2 + user.len() + key.len());
        meta.extend_from_slice(&[self.form.number(), length]);
        meta.extend_from_slice(&user.as_bytes()[..usize::from(length)]);
        meta.extend_from_slice(key.as_bytes());
        meta.into()
    }

    /// What [`Self::publication`] wrote; of anything else, as much as makes sense.
    pub(super) fn read(meta: &'a [u8]) -> Meta<'a> {
        let (form, rest) = match meta {
            [] => (0, meta),
            [form, rest @ ..] => (*form, rest),
        };
        let (user, key) = match rest {
            [] => (rest, rest),
            [length, rest @ ..] => rest
                .split_at_checked(usize::from(*length))
                .unwrap_or_default(),
        };
        let text = |bytes: &'a [u8]| {
            std::str::from_utf8(bytes)
                .ok()
                .filter(|one| !one.is_empty())
        };
        Meta {
            form: Form::of(form),
            user: text(user),
            key: text(key),
        }
    }
}

/// The engine's number for a key of this name; never 0, which means none.
fn number(key: &str) -> u64 {
    FixedState::with_seed(KEY_SEED).hash_one(key).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn metas() -> impl Strategy<Value = (Form, Option<String>, Option<String>)> {
        let user = prop::option::of(".{1,32}");
        let key = prop::option::of(".{1,16}");
        (prop::sample::select(Form::ALL.to_vec()), user, key)
    }

    #[test]
    fn nobody_and_no_key_cost_a_byte_that_is_not_allocated() {
        for form in Form::ALL {
            let meta = Meta {
                form,
                user: None,
                key: None,
            };
            let publication = meta.publication(b"1");
            assert_eq!(*publication.meta, [form.number()]);
            assert_eq!(publication.key, 0);
            assert_eq!(Meta::read(&publication.meta), meta);
        }
    }

    #[test]
    fn keys_have_numbers_of_their_own() {
        let mut numbers: Vec<u64> = (0..10_000).map(|n| number(&n.to_string())).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 10_000);
        assert!(!numbers.contains(&0));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read((form, user, key) in metas(), data: Vec<u8>) {
            let meta = Meta { form, user: user.as_deref(), key: key.as_deref() };
            let publication = meta.publication(&data);
            prop_assert_eq!(Meta::read(&publication.meta), meta);
            prop_assert_eq!(&*publication.data, &data);
            prop_assert_eq!(publication.key == 0, key.is_none());
        }

        #[test]
        fn anything_can_be_read(bytes: Vec<u8>) {
            let _ = Meta::read(&bytes);
        }
    }
}
