//! Any bytes as a datagram that may be QUIC: no panic, what follows the IDs changes nothing, and IDs stand in the input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::quic::{CONNECTION_ID_BYTES_MAX, ConnectionId, Header, INITIAL_DATAGRAM_BYTES_MIN, header, opens_connection};

fuzz_target!(|input: &[u8]| {
    let opens = opens_connection(input);
    assert!(!opens || input.len() >= INITIAL_DATAGRAM_BYTES_MIN);
    match header(input) {
        None => assert!(!opens),
        Some(Header::Short { rest }) => assert!(!opens && *rest == input[1..]),
        Some(Header::Long { version, destination, source }) => {
            assert!(destination.len().max(source.len()) <= CONNECTION_ID_BYTES_MAX);
            // The bytes before the first ID, its length, the second one's length.
            let at = 6 + destination.len();
            let end = at + 1 + source.len();
            assert_eq!(ConnectionId::new(&input[6..at]), Some(destination));
            assert_eq!(ConnectionId::new(&input[at + 1..end]), Some(source));
            assert_eq!(header(&input[..end]), Some(Header::Long { version, destination, source }));
            assert_eq!(header(&input[..end - 1]), None);
        }
    }
});
