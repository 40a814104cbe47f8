//! `ringwire probe URL`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::{FAILURE, USAGE, print};
use crate::load::probe::{
    self, CONNECTIONS, IDLE, LATENCY, Mode, Options, Progress, RATE, Range, SIZE_BYTES, TIMEOUT,
    Target, Trust,
};
use crate::topology;

/// How `ringwire probe` ends, for its help.
pub(super) const ENDING: &str = "\
Tests that need an echo run where a message comes back; with --mode auto one message finds out. What does not apply \
is skipped, with the reason. `ringwire probe --list` says what every test checks, and where that is written.

Exit codes: 0 no test failed and at least one passed; 1 a test failed, none applied, or the server cannot be \
reached; 2 wrong flags.";

/// Open files beside the connections: the standard streams, certificates, the resolver.
const OTHER_FILES: u64 = 64;

#[derive(Debug, Args)]
pub(super) struct ProbeArguments {
    /// The server: ws:// or wss://, host, port, path and query
    #[arg(value_name = "URL", required_unless_present = "list")]
    url: Option<String>,

    /// What the server is; auto sends a message and looks what comes back
    #[arg(long, value_enum, default_value = "auto")]
    mode: ModeArgument,

    /// Another path of the same server that echoes: tests that need an echo run there
    #[arg(long, value_name = "PATH")]
    echo_path: Option<String>,

    /// A header of every request, as 'Name: value'; repeatable
    #[arg(long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,

    /// A subprotocol to offer, the preferred one first; repeatable
    #[arg(long = "subprotocol", value_name = "NAME")]
    subprotocols: Vec<String>,

    /// Send the header 'Authorization: Bearer TOKEN'
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,

    /// Trust the certificates in this PEM file, and no others
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,

    /// Trust every certificate: nobody knows then who answers
    #[arg(long)]
    insecure: bool,

    /// How long one step may take: connecting, a handshake, an answer [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = |text: &str| TIMEOUT.parse(text), allow_negative_numbers = true)]
    timeout: Option<Duration>,

    /// How many connections the test of many opens at once
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS)]
    connections: usize,

    /// How long latency is measured [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = |text: &str| LATENCY.parse(text), allow_negative_numbers = true)]
    duration: Option<Duration>,

    /// Messages per second while latency is measured
    #[arg(long, value_name = "N", default_value_t = RATE)]
    rate: u32,

    /// How long a connection stays silent before it must still work [default: 3]
    #[arg(long, value_name = "SECONDS", value_parser = |text: &str| IDLE.parse(text), allow_negative_numbers = true)]
    idle: Option<Duration>,

    /// The largest message, as 16MiB [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    size_max: Option<ByteSize>,

    /// The channel for the test of publishing (ringwire) [default: a random one]
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,

    /// Run only this test or group; repeatable
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Leave out this test or group; repeatable
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,

    /// Show all tests and end
    #[arg(long)]
    list: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArgument {
    Auto,
    Echo,
    Ringwire,
    Connect,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("there is no colon in it; write 'Name: value'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl ProbeArguments {
    /// What the flags say, checked as far as it can be without a connection.
    fn options(self) -> anyhow::Result<Options> {
        let url = self.url.ok_or_else(|| anyhow!("the URL is missing"))?;
        let mut options = Options::new(Target::parse(&url)?);
        options.mode = match self.mode {
            ModeArgument::Auto => None,
            ModeArgument::Echo => Some(Mode::Echo),
            ModeArgument::Ringwire => Some(Mode::Ringwire),
            ModeArgument::Connect => Some(Mode::Connect),
        };
        options.echo_path = self.echo_path;
        options.headers = self.headers;
        if let Some(token) = self.token {
            if options
                .headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
            {
                return Err(anyhow!("--token and --header Authorization: one of them"));
            }
            let value = format!("Bearer {token}");
            options.headers.push(("Authorization".into(), value));
        }
        options.subprotocols = self.subprotocols;
        options.trust = match (self.ca, self.insecure) {
            (Some(file), _) => Trust::File(file),
            (None, true) => Trust::Nobody,
            (None, false) => Trust::System,
        };
        let or = |given: Option<Duration>, range: Range| given.unwrap_or_else(|| range.default());
        options.timeout = or(self.timeout, TIMEOUT);
        options.latency = or(self.duration, LATENCY);
        options.idle = or(self.idle, IDLE);
        options.connections = self.connections;
        options.rate = self.rate;
        options.size_max_bytes = self.size_max.map_or(SIZE_BYTES, |size| size.as_u64());
        options.channel = self.channel;
        options.only = self.only;
        options.skip = self.skip;
        options.check()?;

        let files = options.connections as u64 + OTHER_FILES;
        let limit = topology::raise_nofile();
        if limit.soft < files {
            return Err(anyhow!(
                "--connections: {} need {files} open files, and this process may have {}; raise \
                 the limit (ulimit -n), or use fewer",
                options.connections,
                limit.soft
            ));
        }
        Ok(options)
    }
}

pub(super) fn run(arguments: ProbeArguments) -> anyhow::Result<ExitCode> {
    let json = arguments.json;
    if arguments.list {
        let text = if json {
            format!("{:#}\n", probe::list_json())
        } else {
            probe::list()
        };
        print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let refuse = |problem: &dyn std::fmt::Display| {
        eprintln!("error: {problem}");
        Ok(ExitCode::from(USAGE))
    };
    let options = match arguments.options() {
        Ok(options) => options,
        Err(problem) => return refuse(&problem),
    };
    // A closed pipe ends the printing, and is an error in the end.
    let mut printed = Ok(());
    let mut show = |text: String| {
        if !json && printed.is_ok() {
            printed = print(&text);
        }
    };
    show(format!("{}\n", options.target));
    let result = probe::run(&options, &mut |progress| match progress {
        Progress::Test(result) => show(probe::line(result)),
        Progress::Mode(mode, reason) => show(format!("mode: {} ({reason})\n", mode.name())),
    });
    let report = match result {
        Ok(report) => report,
        Err(problem) => return refuse(&problem),
    };
    show(report.summary());
    printed?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    }
    if let Some(unreachable) = &report.error {
        eprintln!("ringwire: cannot reach {}: {unreachable}", options.target);
    }
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::probe::{CONNECTIONS_MAX, RATE_MAX};
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        arguments: ProbeArguments,
    }

    fn options(arguments: &[&str]) -> anyhow::Result<Options> {
        let all = [&["probe", "wss://127.0.0.1:9000/ws"], arguments].concat();
        Program::try_parse_from(all)?.arguments.options()
    }

    fn refused(arguments: &[&str]) -> String {
        options(arguments).unwrap_err().to_string()
    }

    #[test]
    fn nothing_given_is_the_default() {
        let expected = Options::new(Target::parse("wss://127.0.0.1:9000/ws").unwrap());
        assert_eq!(options(&[]).unwrap(), expected);
    }

    #[test]
    fn every_flag_arrives() {
        let options = options(&[
            "--mode=connect",
            "--echo-path=/echo",
            "--header",
            "X-A: b: c",
            "--token=t",
            "--subprotocol=p",
            "--subprotocol=q",
            "--ca=ca.pem",
            "--timeout=0.5",
            "--connections=7",
            "--duration=2",
            "--rate=50",
            "--idle=0",
            "--size-max=16MiB",
            "--channel=c",
            "--only=control",
            "--skip=ping",
        ])
        .unwrap();
        assert_eq!(options.mode, Some(Mode::Connect));
        assert_eq!(options.echo_path.as_deref(), Some("/echo"));
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            options.headers,
            [header("X-A", "b: c"), header("Authorization", "Bearer t")]
        );
        assert_eq!(options.subprotocols, ["p", "q"]);
        assert_eq!(options.trust, Trust::File("ca.pem".into()));
        assert_eq!(options.timeout, Duration::from_millis(500));
        assert_eq!((options.connections, options.rate), (7, 50));
        assert_eq!(options.latency, Duration::from_secs(2));
        assert_eq!(options.idle, Duration::ZERO);
        assert_eq!(options.size_max_bytes, 16 << 20);
        assert_eq!(options.channel.as_deref(), Some("c"));
        assert_eq!(
            (options.only, options.skip),
            (vec!["control".into()], vec!["ping".into()])
        );
    }

    #[test]
    fn wrong_flags_are_refused() {
        assert!(refused(&["--timeout=0"]).contains("allowed: 0.05 to 600 seconds"));
        assert!(refused(&["--idle", "-1"]).contains("allowed: 0 to 3600 seconds"));
        assert!(refused(&["--header", "nonsense"]).contains("there is no colon in it"));
        let twice = ["--token=a", "--header", "authorization: b"];
        assert!(refused(&twice).contains("one of them"));
        assert!(refused(&["--ca=a", "--insecure"]).contains("cannot be used with"));
        assert!(refused(&["--size-max=huge"]).contains("huge"));
        let many = format!("--connections={}", CONNECTIONS_MAX + 1);
        assert!(refused(&[&many]).contains("allowed: 1 to 10000"));
        assert!(refused(&[&format!("--rate={}", RATE_MAX + 1)]).contains("--rate"));
    }
}
