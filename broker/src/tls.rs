//! TLS for gRPC: one certificate and its key, replaced without a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::config::Settings;

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of the wanted kind.
    #[error("cannot read the {what} from {}: {reason}", path.display())]
    File {
        /// Certificate or key.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The two files do not go together, or the key is of a kind that cannot be used.
    #[error("cannot use the certificate {} with the key {}: {source}", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
}

/// The server side of TLS, as the settings' files say at present.
#[derive(Clone, Debug)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<ArcSwap<ServerConfig>>,
}

impl Tls {
    /// Loads the pair that `settings` name; `None` where they name none.
    ///
    /// # Errors
    /// Where a file cannot be read or the pair does not fit.
    pub fn open(settings: &Settings) -> Result<Option<Self>, TlsError> {
        let (Some(cert), Some(key)) = (&settings.tls_cert, &settings.tls_key) else {
            return Ok(None);
        };
        let current = Arc::new(ArcSwap::from_pointee(load(cert, key)?));
        Ok(Some(Self { cert: cert.clone(), key: key.clone(), current }))
    }

    /// Reads both files again (SIGHUP). Connections that stand keep what they have.
    ///
    /// # Errors
    /// As [`Tls::open`]; the pair of before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        // Both files are read and fitted before the swap: a rotation caught halfway, with the new
        // certificate beside the old key, is an error and not an outage.
        self.current.store(Arc::new(load(&self.cert, &self.key)?));
        Ok(())
    }

    /// What the next handshake uses.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

fn load(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let chain = read_chain(cert)?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| file_error("private key", key, &error))?;
    let pair = |source| TlsError::Pair { cert: cert.to_owned(), key: key.to_owned(), source };
    let provider = Arc::new(ring::default_provider());
    let certified = CertifiedKey::from_der(chain, secret, &provider).map_err(pair)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |error: pem::Error| file_error("certificate", path, &error);
    let certificates = CertificateDer::pem_file_iter(path).map_err(error)?;
    let chain = certificates.collect::<Result<Vec<_>, _>>().map_err(error)?;
    if chain.is_empty() {
        return Err(file_error("certificate", path, &pem::Error::NoItemsFound));
    }
    Ok(chain)
}

fn file_error(what: &'static str, path: &Path, error: &pem::Error) -> TlsError {
    let reason = match error {
        pem::Error::NoItemsFound => format!("it holds no {what} in PEM form"),
        other => other.to_string(),
    };
    TlsError::File { what, path: path.to_owned(), reason }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder with a self-signed pair for `localhost`, and the settings that name it.
    pub(crate) fn settings_with_pair() -> (Settings, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let cert = folder.path().join("cert.pem");
        let key = folder.path().join("key.pem");
        write_pair(&cert, &key);
        let settings = Settings { tls_cert: Some(cert), tls_key: Some(key), ..Settings::default() };
        (settings, folder)
    }

    fn write_pair(cert: &Path, key: &Path) {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(cert, pair.cert.pem()).unwrap();
        std::fs::write(key, pair.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn no_files_means_no_tls() {
        assert!(Tls::open(&Settings::default()).unwrap().is_none());
    }

    #[test]
    fn a_new_pair_is_taken_and_half_of_one_is_not() {
        let (settings, folder) = settings_with_pair();
        let tls = Tls::open(&settings).unwrap().unwrap();
        let first = tls.config();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        write_pair(&cert, &key);
        tls.reload().unwrap();
        let second = tls.config();
        assert!(!Arc::ptr_eq(&first, &second));
        write_pair(&cert, &folder.path().join("other-key.pem"));
        let error = tls.reload().expect_err("the key does not fit").to_string();
        assert!(error.starts_with("cannot use the certificate "), "{error}");
        assert!(Arc::ptr_eq(&second, &tls.config()));
    }

    #[test]
    fn files_that_hold_something_else_are_named() {
        let (settings, folder) = settings_with_pair();
        let swapped = Settings { tls_cert: settings.tls_key.clone(), ..settings.clone() };
        let error = Tls::open(&swapped).expect_err("a key is no certificate").to_string();
        assert!(error.ends_with("key.pem: it holds no certificate in PEM form"), "{error}");
        std::fs::remove_file(folder.path().join("key.pem")).unwrap();
        let error = Tls::open(&settings).expect_err("no key").to_string();
        assert!(error.starts_with("cannot read the private key from "), "{error}");
    }
}
