//! The two loops that touch every byte of every message: unmasking on the way in, and the check
//! that text is UTF-8.
//!
//! Each has a scalar twin that the tests compare it to, at every offset and length. This module
//! and `ring` are the only ones that may use `unsafe`; nothing here does I/O or reads a clock.

mod unmask;
mod utf8;

pub use unmask::{unmask, unmask_copy, unmask_scalar};
pub use utf8::{Utf8, Utf8Error, is_utf8, is_utf8_scalar};
