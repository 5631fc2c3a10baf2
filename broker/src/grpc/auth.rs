//! Who is calling, and may they.

use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::auth::{Authenticator, Principal};

/// Turns away calls without an accepted token, where tokens are required.
#[derive(Clone, Debug)]
pub(super) struct Interceptor {
    authenticator: Authenticator,
}

impl Interceptor {
    pub(super) fn new(authenticator: Authenticator) -> Self {
        Self { authenticator }
    }
}

impl tonic::service::Interceptor for Interceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization");
        let authorization = header.and_then(|value| value.to_str().ok());
        match self.authenticator.check(authorization) {
            Ok(Principal::Anonymous) => Ok(request),
            // For who shows it to operators.
            Ok(principal @ Principal::Token { .. }) => {
                request.extensions_mut().insert(principal);
                Ok(request)
            }
            Err(error) => {
                const REASON: &str = "UNAUTHENTICATED";
                let mut trailers = MetadataMap::new();
                trailers.insert("qbroker-reason", AsciiMetadataValue::from_static(REASON));
                let details = ErrorDetails::with_error_info(REASON, "qbroker", []);
                let (code, message) = (Code::Unauthenticated, error.to_string());
                Err(Status::with_error_details_and_metadata(code, message, details, trailers))
            }
        }
    }
}
