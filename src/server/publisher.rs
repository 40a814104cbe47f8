//! Publishing from threads that are no shards: a backend in the same process, or whoever listens for one.

use crate::hub::home::ChannelRef;
use crate::hub::{Publication, home_of};
use crate::mesh::{Links, Message, Offered, Receipt};
use crate::ring::Peers;
use std::sync::Arc;

/// Publishes into a running server, from any thread. Clones publish into the same one.
#[derive(Clone)]
pub struct Publisher {
    pub(super) links: Arc<Links>,
    pub(super) peers: Arc<Peers>,
    pub(super) seed: u64,
    pub(super) limit_bytes: usize,
}

/// Why nothing was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The channel's home shard has fallen behind.
    #[error("a busy shard takes no more now, {pending_bytes} bytes wait for it; try again later")]
    Busy {
        /// What waits in its inbox.
        pending_bytes: usize,
    },
    /// The server has ended, or is about to.
    #[error("the server has ended")]
    Ended,
}

impl Publisher {
    /// Hands a publication to the channel's home shard, which gives it its place in the channel's order, behind
    /// what was handed to it before. Takes no lock and never waits: where `client.mesh_pending_bytes`, or 1,024
    /// publications, wait for that shard already, it says so. Publications of one thread to one channel keep their order.
    ///
    /// For ringwire's own protocol, [`crate::session::publication`] makes them.
    ///
    /// # Errors
    /// When nothing was published.
    pub fn publish(&self, channel: &str, publication: Publication) -> Result<(), PublishError> {
        let home = home_of(channel, self.seed, self.links.shards());
        let message = Message::Publish {
            channel: ChannelRef::Name(channel.into()),
            publication,
            receipt: Receipt::of_nobody(home as u16),
        };
        match self.links.offer(home, message, self.limit_bytes) {
            Offered::Taken => {
                self.peers.wake_from_outside(home);
                Ok(())
            }
            Offered::Full { pending_bytes } => Err(PublishError::Busy { pending_bytes }),
            Offered::Gone => Err(PublishError::Ended),
        }
    }
}
