//! Who may come, by what they prove: names with passwords, certificates; and what handshakes are made with.

use std::sync::Arc;

use regex::bytes::Regex;
use routing::model::{Demand, TlsVersion};

use super::given::Given;
use super::registry::Family;
use super::traffic::service_name;
use super::{Annotations, Reading};
use crate::compile::handshake;

/// Characters of a realm.
const REALM_CHARS_MAX: usize = 256;
/// The realm where none is given: nginx's own is empty, and some clients refuse that.
const REALM: &str = "Authentication Required";

/// `auth-type: basic` and its kin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicSpec {
    /// The Secret: namespace, name.
    pub secret: (Arc<str>, Arc<str>),
    /// How it says who may come.
    pub form: SecretForm,
    /// The challenge's realm, ready to stand between quotes.
    pub realm: Arc<str>,
}

/// `auth-secret-type`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretForm {
    /// Its key `auth` is an htpasswd file.
    #[default]
    File,
    /// Its keys are names, their values what proves the passwords.
    Map,
}

/// `auth-tls-secret` and its kin.
#[derive(Clone, Debug)]
pub struct ClientSpec {
    /// The Secret with the authorities: namespace, name.
    pub secret: (Arc<str>, Arc<str>),
    /// `auth-tls-verify-client`
    pub demand: Demand,
    /// `auth-tls-verify-depth`
    pub depth: u8,
    /// `auth-tls-error-page`
    pub error_page: Option<Arc<str>>,
    /// `auth-tls-pass-certificate-to-upstream`
    pub passes: bool,
    /// `auth-tls-match-cn`
    pub subject: Option<Regex>,
}

/// `tls-min-protocol-version` and its kin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermsSpec {
    /// The lowest version.
    pub min: Option<TlsVersion>,
    /// The highest version.
    pub max: Option<TlsVersion>,
    /// Cipher suites of TLS 1.2, by their IANA numbers.
    pub ciphers: Vec<u16>,
}

/// What the names of Secrets with authorities end with (MSE).
const CACERT: &str = "-cacert";

pub(super) fn read(given: &mut Given<'_, '_>, reading: &mut Reading<'_>, out: &mut Annotations) {
    basic(given, reading, out);
    client(given, reading, out);
    terms(given, out);
}

fn client(given: &mut Given<'_, '_>, reading: &mut Reading<'_>, out: &mut Annotations) {
    if given.family("auth-tls-secret").is_none() {
        return;
    }
    let by_mse = given.family("auth-tls-secret") == Some(Family::Mse);
    let closed = "; the rules answer 503 instead of being open";
    let secret = given.parse("auth-tls-secret", |text| {
        let name =
            secret_name(text, &reading.id.namespace).map_err(|allowed| format!("{allowed}{closed}"))?;
        if by_mse && !name.1.ends_with(CACERT) {
            return Err(format!("a name that ends with {CACERT}{closed}"));
        }
        Ok(name)
    });
    let demand = given.parse("auth-tls-verify-client", |text| match text {
        "on" => Ok(Some(Demand::Required)),
        "off" => Ok(None),
        "optional" => Ok(Some(Demand::Optional)),
        "optional_no_ca" => Ok(Some(Demand::Reported)),
        _ => Err("on, off, optional, optional_no_ca; on is used".to_owned()),
    });
    let depth = given.number("auth-tls-verify-depth", 0, 6).and_then(|depth| u8::try_from(depth).ok());
    let error_page = given.parse("auth-tls-error-page", super::address::location);
    let passes = given.flag("auth-tls-pass-certificate-to-upstream").unwrap_or(false);
    let names_subject = given.family("auth-tls-match-cn").is_some();
    let subject = given.parse("auth-tls-match-cn", |text| {
        let pattern =
            text.strip_prefix("CN=").ok_or_else(|| format!("CN= and a regular expression{closed}"))?;
        reading.regexes.anchored(&format!("(?s:.*)CN=(?:{pattern})(?s:.*)"))
    });
    match (secret, demand.unwrap_or(Some(Demand::Required))) {
        (Some(_), None) => {}
        (Some(secret), Some(demand)) if subject.is_some() || !names_subject => {
            // Zero is nginx's word for its default.
            let depth = depth.filter(|depth| *depth > 0).unwrap_or(1);
            out.checks.client = Some(ClientSpec { secret, demand, depth, error_page, passes, subject });
        }
        (Some(_) | None, _) => {
            out.closed.get_or_insert_with(|| Arc::from("auth-tls-secret"));
        }
    }
}

fn terms(given: &mut Given<'_, '_>, out: &mut Annotations) {
    let min = given.parse("tls-min-protocol-version", |text| match text {
        // The lowest that is spoken is above what is asked for.
        "TLSv1.0" | "TLSv1.1" => Ok(TlsVersion::V12),
        text => handshake::version(text),
    });
    let mut max = given.parse("tls-max-protocol-version", handshake::version);
    if min > max && max.is_some() {
        given.refuse("tls-max-protocol-version", "allowed: not less than tls-min-protocol-version");
        max = None;
    }
    let mut spec = TermsSpec { min, max, ciphers: Vec::new() };
    for name in ["ssl-cipher", "ssl-ciphers"] {
        let found = given.parse(name, handshake::ciphers);
        if spec.ciphers.is_empty() {
            spec.ciphers = found.unwrap_or_default();
        }
    }
    out.checks.terms = (spec != TermsSpec::default()).then_some(spec);
}

fn basic(given: &mut Given<'_, '_>, reading: &Reading<'_>, out: &mut Annotations) {
    if given.family("auth-type").is_none() {
        return;
    }
    let kind = given.parse("auth-type", |text| match text {
        "basic" => Ok(()),
        _ => Err("basic; the rules answer 503 instead of being open".to_owned()),
    });
    let secret = given.parse("auth-secret", |text| secret_name(text, &reading.id.namespace));
    let form = given.parse("auth-secret-type", |text| match text {
        "auth-file" => Ok(SecretForm::File),
        "auth-map" => Ok(SecretForm::Map),
        _ => Err("auth-file, auth-map; the rules answer 503 instead of being open".to_owned()),
    });
    let realm = given.parse("auth-realm", realm).unwrap_or_else(|| Arc::from(REALM));
    let names_form = given.family("auth-secret-type").is_some();
    let form = if names_form { form } else { Some(SecretForm::default()) };
    match (kind, secret, form) {
        (Some(()), Some(secret), Some(form)) => out.checks.basic = Some(BasicSpec { secret, form, realm }),
        (kind, secret, _) => {
            if kind.is_some() && secret.is_none() && given.family("auth-secret").is_none() {
                given.refuse(
                    "auth-type",
                    "allowed: basic together with auth-secret; the rules answer 503 instead of being open",
                );
            }
            out.closed.get_or_insert_with(|| Arc::from("auth-type"));
        }
    }
}

/// `NAME` of the Ingress's own namespace, or `NAMESPACE/NAME`.
pub(crate) fn secret_name(text: &str, own: &Arc<str>) -> Result<(Arc<str>, Arc<str>), String> {
    let allowed = |_| "[NAMESPACE/]NAME of a Secret".to_owned();
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (service_name(namespace).map_err(allowed)?, name),
        None => (own.clone(), text),
    };
    // Names of Secrets may hold dots (RFC 1123 subdomain).
    for label in name.split('.') {
        service_name(label).map_err(allowed)?;
    }
    Ok((namespace, Arc::from(name)))
}

/// Escaped as a quoted-string wants it (RFC 9110 §5.6.4).
fn realm(text: &str) -> Result<Arc<str>, String> {
    let good = !text.is_empty()
        && text.len() <= REALM_CHARS_MAX
        && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if !good {
        return Err(format!("1 to {REALM_CHARS_MAX} visible ASCII characters and spaces"));
    }
    Ok(Arc::from(text.replace('\\', "\\\\").replace('"', "\\\"")))
}
