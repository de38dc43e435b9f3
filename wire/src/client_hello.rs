//! Which host a TLS client asks for, read without decrypting anything: SNI and ALPN of its ClientHello.
//!
//! For passthrough: the bytes that were read here go to the endpoint as they came. Looks at a prefix of the stream,
//! however it was cut into segments and records, and holds no state between two looks. Nothing is verified that only
//! the endpoint can judge (versions, ciphers, key shares). Called by the gateway's layer-4 listeners.

/// Bytes of a stream in which its ClientHello must be complete.
///
/// 16 KiB: one TLS record (RFC 8446 §5.1). Hellos with post-quantum key shares are below 2 KiB.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// Longest name (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 253;
/// Extensions of one hello. Browsers send below 20.
const EXTENSIONS_MAX: usize = 64;
const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// Why these bytes are not a ClientHello that can be routed. The connection is closed without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloError {
    /// The stream does not start with a handshake record that holds a ClientHello.
    NotTls,
    /// A length inside it points beyond what holds it, or a list is empty that must not be.
    Malformed,
    /// It is not complete within [`HELLO_BYTES_MAX`].
    TooLong,
    /// The server name is not a host name (RFC 6066 §3).
    ServerName,
}

impl HelloError {
    /// A short name for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::Malformed => "malformed_hello",
            Self::TooLong => "hello_too_long",
            Self::ServerName => "bad_server_name",
        }
    }
}

/// What a ClientHello asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The server name in lower case; `None` when the client names none.
    pub server_name: Option<&'a [u8]>,
    alpn: &'a [u8],
}

impl<'a> ClientHello<'a> {
    /// The protocols that the client offers, in its order (RFC 7301 §3.1).
    pub fn alpn(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = Reader(self.alpn);
        std::iter::from_fn(move || {
            let len = rest.u8().ok()?;
            rest.take(usize::from(len)).ok()
        })
    }
}

/// Looks at the beginning of a stream. `Ok(None)` = more bytes are needed.
///
/// `scratch` is memory that the caller lends, cleared here: the handshake message without its record headers. It
/// never grows beyond [`HELLO_BYTES_MAX`].
///
/// # Errors
/// [`HelloError`] as soon as the bytes cannot become a ClientHello, whatever follows.
pub fn peek<'a>(stream: &[u8], scratch: &'a mut Vec<u8>) -> Result<Option<ClientHello<'a>>, HelloError> {
    scratch.clear();
    let looked_at = &stream[..stream.len().min(HELLO_BYTES_MAX)];
    if !join_records(looked_at, scratch)? {
        return if stream.len() >= HELLO_BYTES_MAX { Err(HelloError::TooLong) } else { Ok(None) };
    }
    let body = scratch.get_mut(4..).ok_or(HelloError::Malformed)?;
    let (name, alpn) = find_extensions(body)?;
    if let Some((start, len)) = name {
        let name = body.get_mut(start..start + len).ok_or(HelloError::Malformed)?;
        name.make_ascii_lowercase();
    }
    let body = &scratch[4..];
    let span = |(start, len): (usize, usize)| body.get(start..start + len).unwrap_or_default();
    Ok(Some(ClientHello { server_name: name.map(span), alpn: alpn.map(span).unwrap_or_default() }))
}

/// Puts the payloads of the handshake records together. `true` when the first handshake message is complete; then
/// `out` holds exactly that.
fn join_records(stream: &[u8], out: &mut Vec<u8>) -> Result<bool, HelloError> {
    let mut rest = stream;
    while let Some(kind) = rest.first() {
        // What comes within the first flight of a client is a handshake and nothing else; SSL 2 is not spoken.
        if *kind != HANDSHAKE || rest.get(1).is_some_and(|major| *major != 3) {
            return Err(HelloError::NotTls);
        }
        let Some(header) = rest.get(..RECORD_HEADER) else { return Ok(false) };
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        // RFC 8446 §5.1: no empty fragments of a handshake.
        if len == 0 {
            return Err(HelloError::Malformed);
        }
        if len > 1 << 14 {
            return Err(HelloError::TooLong);
        }
        rest = &rest[RECORD_HEADER..];
        let have = len.min(rest.len());
        out.extend_from_slice(&rest[..have]);
        if let Some(complete) = message_len(out)? {
            out.truncate(complete);
            return Ok(true);
        }
        if have < len {
            return Ok(false);
        }
        rest = &rest[len..];
    }
    Ok(false)
}

/// The length of the ClientHello with its header, once all of it is there.
fn message_len(message: &[u8]) -> Result<Option<usize>, HelloError> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(HelloError::NotTls);
    }
    let Some(&[_, high, mid, low]) = message.first_chunk() else { return Ok(None) };
    let len = 4 + (usize::from(high) << 16 | usize::from(mid) << 8 | usize::from(low));
    if len > HELLO_BYTES_MAX {
        return Err(HelloError::TooLong);
    }
    Ok((message.len() >= len).then_some(len))
}

/// Start and length inside the hello's body.
type Span = (usize, usize);

/// Where the server name and the list of protocols stand.
fn find_extensions(body: &[u8]) -> Result<(Option<Span>, Option<Span>), HelloError> {
    let mut rest = Reader(body);
    rest.take(2 + 32)?;
    rest.vec8()?;
    let ciphers = rest.vec16()?;
    let compressions = rest.vec8()?;
    if ciphers.is_empty() || ciphers.len() % 2 != 0 || compressions.is_empty() {
        return Err(HelloError::Malformed);
    }
    // A client of TLS 1.2 may send no extensions at all (RFC 5246 §7.4.1.2).
    if rest.0.is_empty() {
        return Ok((None, None));
    }
    let mut extensions = Reader(rest.vec16()?);
    if !rest.0.is_empty() {
        return Err(HelloError::Malformed);
    }
    let at = |slice: &[u8]| slice.as_ptr().addr() - body.as_ptr().addr();
    let (mut name, mut alpn) = (None, None);
    let mut count = 0;
    while !extensions.0.is_empty() {
        count += 1;
        let (kind, data) = (extensions.u16()?, extensions.vec16()?);
        if count > EXTENSIONS_MAX {
            return Err(HelloError::Malformed);
        }
        // RFC 8446 §4.2: at most one of each type. Two names are how two readers are made to disagree.
        let (slot, value) = match kind {
            SERVER_NAME => (&mut name, host_name(data)?),
            ALPN => (&mut alpn, protocols(data)?),
            _ => continue,
        };
        if slot.replace((at(value), value.len())).is_some() {
            return Err(HelloError::Malformed);
        }
    }
    Ok((name, alpn))
}

/// RFC 6066 §3: a list of names, of which there is one type and one of each.
fn host_name(data: &[u8]) -> Result<&[u8], HelloError> {
    let mut data = Reader(data);
    let mut list = Reader(data.vec16()?);
    let (kind, name) = (list.u8()?, list.vec16()?);
    if !data.0.is_empty() || !list.0.is_empty() || kind != 0 {
        return Err(HelloError::Malformed);
    }
    let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_label = |label: &[u8]| !label.is_empty() && label.len() <= 63;
    let is_name = name.len() <= NAME_BYTES_MAX
        && name.iter().all(is_name_byte)
        && name.split(|byte| *byte == b'.').all(is_label);
    if is_name { Ok(name) } else { Err(HelloError::ServerName) }
}

fn protocols(data: &[u8]) -> Result<&[u8], HelloError> {
    let mut data = Reader(data);
    let list = data.vec16()?;
    let mut names = Reader(list);
    while !names.0.is_empty() {
        if names.vec8()?.is_empty() {
            return Err(HelloError::Malformed);
        }
    }
    if data.0.is_empty() && !list.is_empty() { Ok(list) } else { Err(HelloError::Malformed) }
}

/// Takes from the front; every length is checked against what is there.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, HelloError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, HelloError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vec8(&mut self) -> Result<&'a [u8], HelloError> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    fn vec16(&mut self) -> Result<&'a [u8], HelloError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}
