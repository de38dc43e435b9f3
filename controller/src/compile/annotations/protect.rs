//! Who may come, by what they prove: names with passwords.

use std::sync::Arc;

use super::given::Given;
use super::traffic::service_name;
use super::{Annotations, Reading};

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

pub(super) fn read(given: &mut Given<'_, '_>, reading: &Reading<'_>, out: &mut Annotations) {
    basic(given, reading, out);
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
