use proptest::prelude::*;

use super::*;
use crate::h1::chunked::{
    CRLF, EXTENSION_BYTES_MAX, LAST_CHUNK, LAST_CHUNK_WITH_TRAILERS, PREFIX_BYTES_MAX, TRAILER_BYTES_MAX,
    chunk_prefix,
};

use WireError as E;

#[test]
fn a_chunked_body_is_unwrapped_in_place() {
    let mut buf = b"5\r\nhello\r\n6;ext=\"a b\"\r\n world\r\n0\r\n\r\nGET /".to_vec();
    let mut body = BodyDecoder::new(BodyLength::Chunked, TrailerPolicy::Forward);
    let step = body.step(&mut buf).unwrap();
    assert_eq!(&buf[..step.data], b"hello world");
    assert_eq!(&buf[step.consumed..], b"GET /");
    assert_eq!(step.progress, Progress::Done);
    assert!(body.is_done());
    assert_eq!(body.finish_on_close(), Ok(()));
    // A finished body takes nothing of the next message.
    assert_eq!(body.step(&mut buf), Ok(BodyStep { consumed: 0, data: 0, progress: Progress::Done }));
}

#[test]
fn bodies_without_a_coding_are_counted_not_touched() {
    let mut buf = b"abcdef".to_vec();
    let mut body = BodyDecoder::new(BodyLength::Exact(8), TrailerPolicy::Forward);
    assert_eq!(body.step(&mut buf), Ok(BodyStep { consumed: 6, data: 6, progress: Progress::More }));
    assert_eq!(body.finish_on_close(), Err(E::Truncated));
    assert_eq!(body.step(&mut buf), Ok(BodyStep { consumed: 2, data: 2, progress: Progress::Done }));
    assert_eq!(body.finish_on_close(), Ok(()));
    body.reset(BodyLength::UntilClose);
    assert_eq!(body.step(&mut buf), Ok(BodyStep { consumed: 6, data: 6, progress: Progress::More }));
    assert_eq!((body.finish_on_close(), body.is_done()), (Ok(()), false));
    for length in [BodyLength::None, BodyLength::Exact(0)] {
        body.reset(length);
        assert!(body.is_done());
        assert_eq!(body.step(&mut buf), Ok(BodyStep { consumed: 0, data: 0, progress: Progress::Done }));
    }
    assert_eq!(buf, b"abcdef");
}

// S7
#[test]
fn malformed_chunks_are_refused() {
    let cases: [&[u8]; 36] = [
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\t\r\nhello\r\n0\r\n\r\n",
        b"5 5\r\nhello\r\n0\r\n\r\n",
        b"5_\r\nhello\r\n0\r\n\r\n",
        b"5h\r\nhello\r\n0\r\n\r\n",
        b"5.0\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b";a\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5;a\nhello\r\n0\r\n\r\n",
        b"5;a\r\rhello\r\n0\r\n\r\n",
        b"5;a\0\r\nhello\r\n0\r\n\r\n",
        b"5;a\x7f\r\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello!!0\r\n\r\n",
        b"8000000000000000\r\n",
        b"7fffffffffffffff0\r\n",
        b"ffffffffffffffff\r\n",
        b"10000000000000005\r\n",
        b"00000000000000005\r\n",
        b"100000000000000000000000000000005\r\n",
        b"0\r\n\n",
        b"0\r\n\rX",
        b"0\n\r\n",
        b"0\r\nX: a\n\r\n",
        b"0\r\nX a\r\n\r\n",
        b"0\r\nX: a\r\n b\r\n\r\n",
        b"0\r\nX : a\r\n\r\n",
    ];
    for case in cases {
        let shown = String::from_utf8_lossy(case);
        let mut body = BodyDecoder::new(BodyLength::Chunked, TrailerPolicy::Forward);
        let error = body.step(&mut case.to_vec()).expect_err(&shown);
        assert!(matches!(error, E::Chunk | E::Trailer), "{shown:?}");
        // It stays refused, whatever follows.
        assert_eq!(body.step(&mut b"5\r\nhello\r\n0\r\n\r\n".to_vec()), Err(error));
        assert_eq!(body.finish_on_close(), Err(error));
        assert!(!body.is_done());
    }
    for (case, data) in [
        (b"005\r\nhello\r\n000\r\n\r\n".as_slice(), b"hello".as_slice()),
        (b"5 ;a=b\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"A\r\n0123456789\r\n0;x\r\n\r\n", b"0123456789"),
        (b"000000000000000a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    ] {
        assert_eq!(whole(case), Ok((data.to_vec(), Vec::new())), "{:?}", String::from_utf8_lossy(case));
    }
}

#[test]
fn extensions_are_bounded_per_chunk_and_per_body() {
    let chunk = |len: usize| [b"1;".as_slice(), &b"a".repeat(len - 1), b"\r\nx\r\n"].concat();
    let max = EXTENSION_BYTES_MAX as usize;
    assert!(whole(&[chunk(max).as_slice(), LAST_CHUNK].concat()).is_ok());
    assert_eq!(whole(&[chunk(max + 1).as_slice(), LAST_CHUNK].concat()), Err(E::Chunk));
    assert!(whole(&[chunk(max).repeat(16).as_slice(), LAST_CHUNK].concat()).is_ok());
    assert_eq!(whole(&[chunk(max).repeat(17).as_slice(), LAST_CHUNK].concat()), Err(E::Chunk));
}

// S12
#[test]
fn trailers_that_could_change_the_message_are_dropped() {
    let body = b"1\r\nx\r\n0\r\nX-Checksum: abc\r\nHost: evil\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\
        Authorization: x\r\nCookie: a\r\nSet-Cookie: b\r\nX-Forwarded-For: 1\r\nForwarded: for=1\r\nConnection: close\r\n\
        Content-Type: a\r\nCache-Control: b\r\nTE: x\r\nTrailer: y\r\nX_Under: z\r\nContent_Length: 5\r\nExpect: e\r\n\
        If-Match: f\r\nX-Envoy-Internal: g\r\nLocation: /\r\nVia: h\r\ngrpc-status:0  \r\nX-Empty:\r\n\r\n";
    let kept = b"X-Checksum: abc\r\ngrpc-status: 0\r\nX-Empty: \r\n".to_vec();
    assert_eq!(whole(body), Ok((b"x".to_vec(), kept)));
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, TrailerPolicy::Drop);
    decoder.step(&mut body.to_vec()).unwrap();
    assert_eq!((decoder.is_done(), decoder.trailers()), (true, &b""[..]));
    assert_eq!(whole(b"0\r\nbroken\r\n\r\n"), Err(E::Trailer));
}

#[test]
fn trailers_are_bounded() {
    let section = |line: &[u8], count: usize| [b"0\r\n".as_slice(), &line.repeat(count), b"\r\n"].concat();
    assert!(whole(&section(b"X: a\r\n", 32)).is_ok());
    assert_eq!(whole(&section(b"X: a\r\n", 33)), Err(E::Trailer));
    let line = |len: usize| [b"X: ".as_slice(), &b"a".repeat(len - 5), b"\r\n"].concat();
    assert!(whole(&section(&line(TRAILER_BYTES_MAX), 1)).is_ok());
    assert_eq!(whole(&section(&line(TRAILER_BYTES_MAX + 1), 1)), Err(E::Trailer));
    // Refused while it comes, not only when it is complete.
    let mut decoder = BodyDecoder::new(BodyLength::Chunked, TrailerPolicy::Forward);
    let mut endless = [b"0\r\nX: ".as_slice(), &b"a".repeat(TRAILER_BYTES_MAX)].concat();
    assert_eq!(decoder.step(&mut endless), Err(E::Trailer));
}

#[test]
fn a_chunked_body_cut_off_anywhere_is_truncated() {
    let bytes = b"5;e\r\nhello\r\n0\r\nX: y\r\n\r\n";
    for end in 0..bytes.len() {
        let mut body = BodyDecoder::new(BodyLength::Chunked, TrailerPolicy::Forward);
        let step = body.step(&mut bytes[..end].to_vec()).unwrap();
        assert_eq!((step.consumed, step.progress), (end, Progress::More), "{end}");
        assert_eq!(body.finish_on_close(), Err(E::Truncated), "{end}");
    }
}

#[test]
fn chunk_prefixes_are_hexadecimal() {
    for (len, wanted) in [
        (1, "1\r\n"),
        (15, "f\r\n"),
        (16, "10\r\n"),
        (4096, "1000\r\n"),
        (usize::MAX, "ffffffffffffffff\r\n"),
    ] {
        let mut out = [0; PREFIX_BYTES_MAX];
        let used = chunk_prefix(len, &mut out);
        assert_eq!(&out[..used], wanted.as_bytes(), "{len}");
    }
}

proptest! {
    #[test]
    fn what_is_written_in_chunks_is_read_back_however_it_is_split(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
        trailer in any::<Option<u16>>(),
        cuts in proptest::collection::vec(1..400_usize, 1..20),
    ) {
        let mut coded = Vec::new();
        for chunk in &chunks {
            let mut prefix = [0; PREFIX_BYTES_MAX];
            let used = chunk_prefix(chunk.len(), &mut prefix);
            coded.extend_from_slice(&prefix[..used]);
            coded.extend_from_slice(chunk);
            coded.extend_from_slice(CRLF);
        }
        let lines = trailer.map(|value| format!("X-Sum: {value}\r\n")).unwrap_or_default().into_bytes();
        if trailer.is_some() {
            coded.extend_from_slice(LAST_CHUNK_WITH_TRAILERS);
            coded.extend_from_slice(&lines);
            coded.extend_from_slice(CRLF);
        } else {
            coded.extend_from_slice(LAST_CHUNK);
        }
        let next = b"NEXT MESSAGE";
        coded.extend_from_slice(next);
        let (data, kept, rest) = in_pieces(&coded, &cuts).unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(kept, lines);
        prop_assert!(next.starts_with(&rest), "{rest:?}");
    }

    #[test]
    fn any_bytes_are_read_alike_however_they_are_split(
        bytes in proptest::collection::vec(proptest::sample::select(b"0159afF;x: \t\r\r\n\n\r\n".to_vec()), 0..60),
        cuts in proptest::collection::vec(1..9_usize, 1..20),
    ) {
        let whole = in_pieces(&bytes, &[usize::MAX]);
        let split = in_pieces(&bytes, &cuts);
        match (whole, split) {
            (Ok((data, kept, _)), Ok((split_data, split_kept, _))) => prop_assert_eq!((data, kept), (split_data, split_kept)),
            (whole, split) => prop_assert_eq!(whole.is_err(), split.is_err()),
        }
    }
}

/// Data, trailers, and what was left over.
type Pieces = (Vec<u8>, Vec<u8>, Vec<u8>);

/// Data and trailers of a body given at once.
fn whole(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), WireError> {
    let (data, trailers, _) = in_pieces(bytes, &[usize::MAX])?;
    Ok((data, trailers))
}

/// Data, trailers and what the last piece left over, of a body given in pieces of these lengths, over and over.
fn in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<Pieces, WireError> {
    let mut body = BodyDecoder::new(BodyLength::Chunked, TrailerPolicy::Forward);
    let mut data = Vec::new();
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        let (piece, after) = rest.split_at((*cut).min(rest.len()));
        let mut buf = piece.to_vec();
        let step = body.step(&mut buf)?;
        assert!(step.data <= step.consumed && step.consumed <= buf.len());
        assert_eq!(&buf[step.consumed..], &piece[step.consumed..], "what is left over is untouched");
        data.extend_from_slice(&buf[..step.data]);
        if step.progress == Progress::Done || after.is_empty() {
            return Ok((data, body.trailers().to_vec(), buf[step.consumed..].to_vec()));
        }
        rest = after;
    }
    Ok((data, Vec::new(), Vec::new()))
}

#[test]
fn what_goes_by_unseen_counts_and_only_a_known_length_can() {
    let mut body = BodyDecoder::new(BodyLength::Exact(10), TrailerPolicy::Forward);
    assert_eq!(body.known_rest(), 10);
    body.skip(6);
    assert_eq!(body.step(&mut b"abc".to_vec()).unwrap().progress, Progress::More);
    assert_eq!((body.known_rest(), body.finish_on_close()), (1, Err(WireError::Truncated)));
    let last = body.step(&mut b"de".to_vec()).unwrap();
    assert_eq!((last.data, last.consumed, last.progress), (1, 1, Progress::Done));
    assert_eq!(body.known_rest(), 0);
    for length in [BodyLength::None, BodyLength::Exact(0), BodyLength::Chunked, BodyLength::UntilClose] {
        assert_eq!(BodyDecoder::new(length, TrailerPolicy::Forward).known_rest(), 0, "{length:?}");
    }
}
