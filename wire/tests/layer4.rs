//! What a layer-4 connection begins with: ClientHello and PROXY headers, whole, in pieces, mutated, and hostile.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a failing helper fails its test; its lengths are small"
)]

use std::net::SocketAddr;

use proptest::prelude::*;
use wire::client_hello::{HELLO_BYTES_MAX, HelloError, peek};
use wire::proxy_protocol::{Header, ProxyError, V1_BYTES_MAX, V2_BYTES_MAX, Version, decode, encode, tlv};

// ---------------------------------------------------------------- ClientHello

fn with_len16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &with_len16(data)].concat()
}

fn server_name(name: &str) -> Vec<u8> {
    let entry = [&[0][..], &with_len16(name.as_bytes())].concat();
    extension(0, &with_len16(&entry))
}

fn alpn(names: &[&str]) -> Vec<u8> {
    let list: Vec<u8> =
        names.iter().flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat()).collect();
    extension(16, &with_len16(&list))
}

/// A handshake message.
fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([4, 1, 2, 3, 4]);
    body.extend(with_len16(&[0x13, 0x01, 0x13, 0x02]));
    body.extend([1, 0]);
    if !extensions.is_empty() {
        body.extend(with_len16(&extensions.concat()));
    }
    let len = body.len();
    [&[1, (len >> 16) as u8, (len >> 8) as u8, len as u8][..], &body].concat()
}

/// The message in records of at most `max` bytes.
fn records(message: &[u8], max: usize) -> Vec<u8> {
    message.chunks(max).flat_map(|piece| [&[22, 3, 1][..], &with_len16(piece)].concat()).collect()
}

fn sample() -> Vec<u8> {
    // A grease extension in front, as browsers send it.
    hello(&[
        extension(0x0a0a, b""),
        server_name("Shop.EXAMPLE"),
        alpn(&["h2", "http/1.1"]),
        extension(43, &[2, 3, 4]),
    ])
}

fn name_of(stream: &[u8]) -> Result<Option<Option<String>>, HelloError> {
    let mut scratch = Vec::new();
    let hello = peek(stream, &mut scratch)?;
    Ok(hello.map(|hello| hello.server_name.map(|name| String::from_utf8(name.to_vec()).unwrap())))
}

#[test]
fn name_and_protocols_are_found_in_lower_case_whatever_follows() {
    let mut stream = records(&sample(), 1 << 14);
    stream.extend_from_slice(b"\x14\x03\x03early data or anything");
    let mut scratch = Vec::new();
    let hello = peek(&stream, &mut scratch).unwrap().unwrap();
    assert_eq!(hello.server_name, Some(&b"shop.example"[..]));
    assert_eq!(hello.alpn().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
}

#[test]
fn a_hello_is_read_however_segments_and_records_cut_it() {
    for record in [1, 2, 5, 61, 1 << 14] {
        let stream = records(&sample(), record);
        for end in 0..stream.len() {
            assert_eq!(name_of(&stream[..end]), Ok(None), "records of {record}, {end} bytes");
        }
        assert_eq!(name_of(&stream), Ok(Some(Some("shop.example".into()))), "records of {record}");
    }
}

#[test]
fn a_hello_without_name_or_extensions_names_nobody() {
    assert_eq!(name_of(&records(&hello(&[]), 100)), Ok(Some(None)));
    assert_eq!(name_of(&records(&hello(&[alpn(&["h2"])]), 100)), Ok(Some(None)));
}

#[test]
fn what_is_not_tls_is_known_by_its_first_bytes() {
    for stream in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\x80\x2e\x01\x03\x01",
        b"\x16\x02",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x15",
    ] {
        assert_eq!(name_of(stream), Err(HelloError::NotTls), "{stream:?}");
    }
    assert_eq!(name_of(b""), Ok(None));
}

#[test]
fn lengths_that_lie_are_refused() {
    assert_eq!(name_of(b"\x16\x03\x01\x00\x00"), Err(HelloError::Malformed), "an empty record");
    assert_eq!(name_of(b"\x16\x03\x01\x40\x01"), Err(HelloError::TooLong), "a record of more than 2^14");
    assert_eq!(name_of(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff"), Err(HelloError::TooLong), "16 MB announced");
    let two = hello(&[server_name("a.example"), server_name("b.example")]);
    assert_eq!(name_of(&records(&two, 9999)), Err(HelloError::Malformed), "two names");
    for name in ["", "a..b", ".a", "a.", "a b", "a\0b", "\u{e4}.example", &"a".repeat(64), &"a.".repeat(127)]
    {
        let stream = records(&hello(&[server_name(name)]), 9999);
        assert_eq!(name_of(&stream), Err(HelloError::ServerName), "{name:?}");
    }
}

#[test]
fn a_hello_that_never_ends_is_given_up_at_the_bound() {
    let message = [&[1, 0, 0x3f, 0xf0][..], &[0; 0x3ff0]].concat();
    let stream = records(&message, 1);
    assert_eq!(name_of(&stream[..HELLO_BYTES_MAX - 1]), Ok(None));
    assert_eq!(name_of(&stream[..HELLO_BYTES_MAX]), Err(HelloError::TooLong));
    assert_eq!(name_of(&stream), Err(HelloError::TooLong));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Flipped, cut and inserted bytes: no panic, and a verdict never changes when more follows.
    #[test]
    fn mutated_hellos_never_panic_and_verdicts_stand(
        record in 1usize..400,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut stream = records(&sample(), record);
        for (at, byte, what) in edits {
            let at = at.index(stream.len());
            match what {
                0 => stream[at] = byte,
                1 => stream.insert(at, byte),
                _ => drop(stream.remove(at)),
            }
        }
        let whole = name_of(&stream);
        let part = name_of(&stream[..cut.index(stream.len() + 1)]);
        prop_assert!(part == Ok(None) || part == whole, "{part:?} became {whole:?}");
    }

    #[test]
    fn any_bytes_never_panic(stream in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = name_of(&stream);
        let _ = name_of(&[&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &stream].concat());
        let _ = decode(&stream).map(|header| header.map(|header| header.tlvs().count()));
    }
}

// ---------------------------------------------------------------- PROXY protocol

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[track_caller]
fn decoded(stream: &[u8]) -> Header<'_> {
    for end in 0..stream.len() {
        match decode(&stream[..end]) {
            Ok(None) => {}
            Ok(Some(header)) => assert!(header.len <= end),
            Err(error) => panic!("{error:?} of the first {end} bytes"),
        }
    }
    decode(stream).unwrap().unwrap()
}

#[test]
fn v1_names_source_and_destination() {
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
    let header = decoded(line);
    assert_eq!(
        (header.len, header.addresses),
        (line.len(), Some((addr("192.0.2.7:56324"), addr("198.51.100.1:443"))))
    );
    let header = decoded(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n");
    assert_eq!(header.addresses.unwrap().0, addr("[2001:db8::1]:1"));
    assert_eq!(decoded(b"PROXY UNKNOWN\r\n").addresses, None);
    assert_eq!(decoded(b"PROXY UNKNOWN whatever it is 1 2 3\r\n").addresses, None);
}

#[test]
fn v1_refuses_what_is_not_exactly_a_header() {
    for line in [
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 1\r\n",
        "PROXY TCP4 192.0.2.7  198.51.100.1 56324 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
        "PROXY \r\n",
    ] {
        assert_eq!(decode(line.as_bytes()), Err(ProxyError::Malformed), "{line:?}");
    }
    for stream in [&b"GET / HTTP/1.1\r\n"[..], b"proxy TCP4", b"PROXYTCP4", b"\r\n\r\n\0\r\nQUIX"] {
        assert_eq!(decode(stream), Err(ProxyError::Missing), "{stream:?}");
    }
    let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; V1_BYTES_MAX]].concat();
    assert_eq!(decode(&endless), Err(ProxyError::TooLong));
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &with_len16(body)].concat()
}

#[test]
fn v2_says_who_it_was_and_what_the_sender_knows() {
    let body =
        [&[192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb][..], &[2, 0, 1, b'a', 4, 0, 0]].concat();
    let stream = v2(0x21, 0x11, &body);
    let header = decoded(&stream);
    assert_eq!(header.addresses, Some((addr("192.0.2.7:56324"), addr("198.51.100.1:443"))));
    assert_eq!(header.tlvs().collect::<Vec<_>>(), [(2, &b"a"[..]), (4, b"")]);
    assert_eq!(decoded(&v2(0x20, 0x11, &body)).addresses, None, "LOCAL: a health check of the proxy itself");
    assert_eq!(decoded(&v2(0x21, 0x00, b"anything")).addresses, None);
    assert_eq!(decoded(&v2(0x21, 0x31, &[0; 216])).addresses, None, "a Unix socket");
}

#[test]
fn v2_refuses_lengths_that_lie_and_unknown_versions() {
    let addresses = [0; 12];
    for (stream, error) in [
        (v2(0x11, 0x11, &addresses), ProxyError::Malformed),
        (v2(0x22, 0x11, &addresses), ProxyError::Malformed),
        (v2(0x21, 0x12, &addresses), ProxyError::Malformed),
        (v2(0x21, 0x41, &addresses), ProxyError::Malformed),
        (v2(0x21, 0x11, &addresses[1..]), ProxyError::Malformed),
        (v2(0x21, 0x21, &[0; 35]), ProxyError::Malformed),
        (v2(0x21, 0x11, &[&addresses[..], &[2, 0, 2, b'a']].concat()), ProxyError::Tlv),
        (v2(0x21, 0x11, &[&addresses[..], &[2, 0xff, 0xff]].concat()), ProxyError::Tlv),
        (v2(0x21, 0x11, &[&addresses[..], &[2, 0]].concat()), ProxyError::Tlv),
        (v2(0x21, 0x11, &[&addresses[..], &[4, 0, 0].repeat(65)].concat()), ProxyError::Tlv),
        (v2(0x21, 0x11, &[0; V2_BYTES_MAX])[..16].to_vec(), ProxyError::TooLong),
    ] {
        assert_eq!(decode(&stream), Err(error), "{:?}", &stream[12..]);
    }
}

#[test]
fn what_is_written_reads_back() {
    for (source, destination) in [
        ("192.0.2.7:1", "198.51.100.1:65535"),
        ("[2001:db8::1]:5", "[2001:db8::2]:6"),
        ("192.0.2.7:1", "[2001:db8::2]:6"),
        ("[::ffff:192.0.2.7]:1", "198.51.100.1:2"),
    ] {
        let canonical = |text: &str| SocketAddr::new(addr(text).ip().to_canonical(), addr(text).port());
        for version in [Version::V1, Version::V2] {
            let mut out = Vec::new();
            let tlvs = [(tlv::AUTHORITY, &b"shop.example"[..]), (tlv::ALPN, b"h2"), (9, &[0; V2_BYTES_MAX])];
            encode(&mut out, version, addr(source), addr(destination), &tlvs);
            let header = decoded(&out);
            assert_eq!(header.len, out.len());
            assert_eq!(
                header.addresses,
                Some((canonical(source), canonical(destination))),
                "{source} {version:?}"
            );
            if version == Version::V2 {
                assert_eq!(header.tlvs().collect::<Vec<_>>(), tlvs[..2]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn mutated_headers_never_panic_and_verdicts_stand(
        version in prop::sample::select(vec![Version::V1, Version::V2]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut stream = Vec::new();
        encode(&mut stream, version, addr("192.0.2.7:1"), addr("192.0.2.8:2"), &[(2, b"shop.example")]);
        stream.extend_from_slice(b"\r\nthe payload");
        for (at, byte, what) in edits {
            let at = at.index(stream.len());
            match what {
                0 => stream[at] = byte,
                1 => stream.insert(at, byte),
                _ => drop(stream.remove(at)),
            }
        }
        let whole = decode(&stream);
        let part = decode(&stream[..cut.index(stream.len() + 1)]);
        prop_assert!(part == Ok(None) || part == whole, "{part:?} became {whole:?}");
    }
}
