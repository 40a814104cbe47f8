//! This machine as it is.

use crate::ring::probe::probe;
use std::time::Duration;

#[test]
fn this_machine_can_run_a_ring() {
    let features = probe().unwrap();
    assert!(features.to_string().starts_with("Linux "));
}

/// Rings that end interrupt the thread that used them, even after they are closed.
#[test]
fn probing_interrupts_nobody() {
    let (waiting, _silent) = std::os::unix::net::UnixStream::pair().unwrap();
    // With a timeout, so that the kernel does not restart the call by itself.
    waiting
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    for _ in 0..5 {
        probe().unwrap();
        let error = std::io::Read::read(&mut &waiting, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
    }
}
