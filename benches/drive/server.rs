//! Servers under measurement, and how they are configured.

pub(crate) use ringwire::load::launch::{Launch, Server, pin_thread};

/// Configuration of a server that believes its clients who they are. Comes before [`PRESENCE`].
pub(crate) const USERS: &str = "[users]\ntrusted_peers = [\"127.0.0.0/8\"]\n";
/// Configuration of a server where every channel has presence.
pub(crate) const PRESENCE: &str = "[[channels]]\nmatch = \"*\"\npresence.enabled = true\n";

/// The header that says whose connection it is.
pub(crate) fn user_header(user: &str) -> (String, String) {
    ("X-User-ID".to_owned(), format!("user-{user}"))
}
