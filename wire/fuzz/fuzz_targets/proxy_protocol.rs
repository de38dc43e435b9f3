//! Any bytes as a PROXY header: no panic, a verdict never changes when more bytes follow, and what was read is written
//! and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::proxy_protocol::{Version, decode, encode};

fuzz_target!(|input: &[u8]| {
    let verdict = decode(input);
    let cut = input.last().map_or(0, |byte| usize::from(*byte) * input.len() / 256);
    match decode(&input[..cut]) {
        Ok(None) => {}
        early => assert_eq!(early, verdict),
    }
    let Ok(Some(header)) = verdict else { return };
    assert!(header.len <= input.len());
    let Some((source, destination)) = header.addresses else { return };
    let tlvs: Vec<(u8, &[u8])> = header.tlvs().collect();
    let mut out = Vec::new();
    encode(&mut out, Version::V2, source, destination, &tlvs);
    let again = decode(&out).expect("our own header").expect("is complete");
    assert_eq!(again.tlvs().collect::<Vec<_>>(), tlvs);
    assert_eq!(again.addresses.map(|(source, _)| source.port()), Some(source.port()));
});
