//! The upgrade request of a run, and what its answer must be.

use memchr::memmem;

use super::plan::{CONNECTION, Plan};
use super::scenario::MaskKeys;
use crate::wire::client::{parse_response, write_request};
use crate::wire::upgrade::AcceptKey;

/// The same for all connections of a worker, but for their numbers.
pub(super) struct Handshake {
    /// The request; between its parts belongs the connection's number.
    parts: Vec<Vec<u8>>,
    accept: AcceptKey,
    subprotocols: Option<String>,
    seed: u32,
}

impl Handshake {
    /// With a key of its own.
    pub(super) fn new(plan: &Plan) -> anyhow::Result<Self> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        let mut request = Vec::new();
        let host = plan.host.clone();
        let host = host.unwrap_or_else(|| plan.address.to_string());
        let headers: Vec<(&str, &str)> = plan
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let accept = write_request(
            &mut request,
            &host,
            &plan.path,
            &key,
            plan.subprotocols.as_deref(),
            &headers,
        );
        Ok(Self {
            parts: split(&request, CONNECTION.as_bytes()),
            accept,
            subprotocols: plan.subprotocols.clone(),
            seed: u32::from_ne_bytes([key[0], key[1], key[2], key[3]]),
        })
    }

    /// Masking keys for the frames that follow, different ones in each run.
    pub(super) fn mask_keys(&self) -> MaskKeys {
        MaskKeys::new(self.seed)
    }

    /// Appends the request of connection `number`.
    pub(super) fn write(&self, number: u32, out: &mut Vec<u8>) {
        for (at, part) in self.parts.iter().enumerate() {
            if at > 0 {
                out.extend_from_slice(format!("{number:06}").as_bytes());
            }
            out.extend_from_slice(part);
        }
    }

    /// Length of the answer at the start of `bytes`; frames follow it. `None` while it is incomplete.
    ///
    /// # Errors
    /// The server refused, broke RFC 6455 section 4.1, or chose what was not offered.
    pub(super) fn read(&self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let answer = parse_response(bytes, &self.accept).map_err(|error| error.to_string())?;
        let Some(accepted) = answer else {
            return Ok(None);
        };
        if let Some(chosen) = accepted.subprotocol
            && !is_offered(self.subprotocols.as_deref(), chosen)
        {
            return Err(format!(
                "the server chose {chosen:?}, which was not offered"
            ));
        }
        Ok(Some(accepted.consumed))
    }
}

/// Whether a subprotocol is in the list of those that were offered.
fn is_offered(offers: Option<&str>, chosen: &str) -> bool {
    let mut offers = offers.into_iter().flat_map(|list| list.split(','));
    offers.any(|offer| offer.trim() == chosen)
}

/// The parts of `bytes` between each `separator`; at least one.
fn split(bytes: &[u8], separator: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = memmem::find(rest, separator) {
        parts.push(rest[..at].to_vec());
        rest = &rest[at + separator.len()..];
    }
    parts.push(rest.to_vec());
    parts
}
