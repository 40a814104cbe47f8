//! No traffic: connections that open and stay.

use super::Latencies;
use super::scenario::{Outgoing, Scenario, ScenarioCounts};
use crate::wire::message::Kind;

/// Says nothing and expects nothing; pings are answered by the worker.
pub(super) struct Idle;

impl Scenario for Idle {
    type State = ();

    fn opened(&mut self, _: u32, (): &mut (), _: &mut Outgoing<'_>) -> bool {
        true
    }

    fn message(
        &mut self,
        _: u32,
        (): &mut (),
        _: Kind,
        payload: &[u8],
        _: &mut Outgoing<'_>,
    ) -> Result<bool, String> {
        Err(format!(
            "a message of {} bytes came to an idle connection",
            payload.len()
        ))
    }

    fn closed(&mut self, _: u32, (): &mut ()) {}

    fn clock(&mut self, _: u64) {}

    fn turn(&mut self, _: bool) {}

    fn next_due(&mut self) -> Option<u32> {
        None
    }

    fn send(&mut self, _: u32, (): &mut (), _: &mut Outgoing<'_>) {}

    fn counts(&self) -> ScenarioCounts {
        ScenarioCounts::default()
    }

    fn is_quiet(&self) -> bool {
        true
    }

    fn take_latencies(&mut self) -> (Latencies, Latencies) {
        Default::default()
    }
}
