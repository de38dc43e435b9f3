//! The only place with `unsafe`. Each block has its SAFETY comment and one call.
#![expect(
    unsafe_code,
    reason = "what io_uring buffers and raw descriptors promise cannot be said in safe code"
)]

pub mod buf;
pub mod fd;
pub mod prefetch;
