//! `ringwire serve`.

use std::process::ExitCode;

use super::config::{not_placed, refuse};
use super::{SettingFlags, print};
use crate::config::{Config, Listen};
use crate::telemetry;
use crate::topology::{self, TopologyError};
use crate::{Server, StartError};

pub(super) fn run(flags: SettingFlags) -> anyhow::Result<ExitCode> {
    topology::do_without_huge_pages();
    let loaded = match flags.load() {
        Ok(loaded) => loaded,
        Err(problems) => return Ok(refuse(&problems)),
    };
    telemetry::log::init(&loaded.config.log)?;
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    let server = match Server::builder().config(loaded.config.clone()).build() {
        Ok(server) => server,
        Err(StartError::Topology(error @ TopologyError::Cores { .. })) => {
            return Ok(refuse(&[not_placed(&loaded, &error)]));
        }
        Err(error) => return Err(error.into()),
    };
    // Whoever reads this takes it for the word that the server runs, so it comes when that is true.
    let introduction = introduction(&server);
    server.run_and(|_| {
        if let Err(error) = print(&introduction) {
            // No reason to leave clients without a server.
            tracing::warn!("{error}; the server runs all the same");
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What an operator wants to know at start: version, kernel, shards, capacity, addresses, and where
/// to look with a browser.
fn introduction(server: &Server) -> String {
    let config = server.config();
    let nofile = server.nofile();
    let mut text = format!("ringwire {}\n", env!("CARGO_PKG_VERSION"));
    text += &format!("kernel: {}\n", server.features());
    text += &format!(
        "open files: {} (was {}); room for {} connections\n",
        nofile.soft,
        nofile.old_soft,
        server.capacity()
    );
    text += &format!("{}\n", server.plan());
    for address in server.addresses() {
        for path in &config.http.websocket_paths {
            text += &format!("listening on {}\n", websocket_url(address, path));
        }
        if config.echo_enabled() {
            text += &format!("listening on {}\n", websocket_url(address, "/echo"));
        }
    }
    if let Some(url) = demo_url(config, server.addresses()) {
        text += &format!("demo page: {url}\n");
    }
    text
}

fn websocket_url(address: &Listen, path: &str) -> String {
    match address {
        Listen::Tcp(address) => format!("ws://{address}{path}"),
        Listen::Unix(_) => format!("{address} (path {path})"),
    }
}

/// The demo page's address, as a browser on this machine would reach it.
fn demo_url<'a>(
    config: &Config,
    mut addresses: impl Iterator<Item = &'a Listen>,
) -> Option<String> {
    let address = addresses.find_map(|address| match address {
        Listen::Tcp(address) => Some(*address),
        Listen::Unix(_) => None,
    })?;
    let host = match address.ip() {
        ip if !ip.is_unspecified() => address.to_string(),
        std::net::IpAddr::V4(_) => format!("127.0.0.1:{}", address.port()),
        std::net::IpAddr::V6(_) => format!("[::1]:{}", address.port()),
    };
    config.http.demo_page.then(|| format!("http://{host}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(address: &str) -> Option<String> {
        let address = address.parse::<Listen>().unwrap();
        demo_url(&Config::default(), std::iter::once(&address))
    }

    #[test]
    fn the_demo_page_is_where_a_browser_finds_it() {
        assert_eq!(url("127.0.0.1:9000").unwrap(), "http://127.0.0.1:9000/");
        assert_eq!(url("0.0.0.0:80").unwrap(), "http://127.0.0.1:80/");
        assert_eq!(url("[::]:9000").unwrap(), "http://[::1]:9000/");
        assert_eq!(url("unix:/run/ringwire.sock"), None);
        let mut config = Config::default();
        config.http.demo_page = false;
        assert_eq!(demo_url(&config, config.listen.clone().iter()), None);
    }
}
