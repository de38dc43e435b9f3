//! Any bytes as the beginning of a TLS connection: no panic, a verdict never changes when more bytes follow, and what is
//! found stands in the input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::client_hello::{HELLO_BYTES_MAX, peek};

fuzz_target!(|input: &[u8]| {
    let (mut whole, mut part) = (Vec::new(), Vec::new());
    let verdict = peek(input, &mut whole);
    let cut = input.first().map_or(0, |byte| usize::from(*byte) * input.len() / 256);
    match peek(&input[..cut], &mut part) {
        Ok(None) => {}
        early => assert_eq!(early, verdict),
    }
    if let Ok(Some(hello)) = verdict {
        assert!(hello.server_name.is_none_or(|name| !name.is_empty() && name.len() <= 253));
        assert!(hello.alpn().all(|name| !name.is_empty()));
    }
    assert!(whole.len() <= HELLO_BYTES_MAX);
});
