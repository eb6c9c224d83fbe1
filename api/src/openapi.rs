//! OpenAPI description of the API. The calls that register the routes also collect its paths, so it
//! lists exactly the routes that are served. The errors that layers around the routes answer with
//! are described here once, for every route that they stand before; a route describes its own.

use utoipa::OpenApi;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, SecurityRequirement, Type,
};
use utoipa_axum::router::OpenApiRouter;

use crate::desk::Gate;
use crate::error::ErrorBody;

/// Path of the OpenAPI description.
pub const PATH: &str = "/openapi.json";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sightline",
        description = "Find a person in live camera footage by describing them. Every error has the body \
                       {code, message, request_id}; unknown fields are refused.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ErrorBody))
)]
struct Base;

/// Creates an empty router whose description declares bearer tokens.
pub fn base() -> OpenApiRouter<Gate> {
    let mut api = Base::openapi();
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    api.components.get_or_insert_with(Components::default).add_security_scheme("token", bearer);
    api.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("token", [])]);
    OpenApiRouter::with_openapi(api)
}

/// An error of a layer: status, description, and what its `Retry-After` means, if it has one.
type LayerError = (&'static str, &'static str, Option<&'static str>);

/// Errors before any route: the limit of the client's address, a token in the query, a panic.
const OF_EVERY_ROUTE: [LayerError; 3] = [
    ("400", "the request is not valid; the message says what is wrong with it", None),
    ("429", "too many requests with this token or from this address", Some(WAIT)),
    ("500", "a fault of the service; its log has the details under the request id", None),
];

/// Errors before a route that needs a token.
const OF_PROTECTED_ROUTES: [LayerError; 3] = [
    ("401", "the token is missing, unknown, revoked or expired", None),
    ("403", "the token does not permit this", None),
    ("503", "what is down, or that too much is at work, stands in the message", Some(WAIT_IF_BUSY)),
];

/// Errors of a route that reads a body.
const OF_BODIES: [LayerError; 3] = [
    ("408", "the body did not arrive within server.body_seconds", None),
    ("413", "the body is larger than server.max_body_bytes", None),
    ("415", "the body is not declared as JSON", None),
];

const WAIT: &str = "seconds until the next request is allowed";
const WAIT_IF_BUSY: &str = "seconds to wait; only when the server is busy";

/// Adds the errors of the layers to the description of these routes; `protected`: they need a
/// token. What a route says of the same status stays.
pub(crate) fn describe_errors(mut routes: OpenApiRouter<Gate>, protected: bool) -> OpenApiRouter<Gate> {
    for operation in routes.get_openapi_mut().paths.paths.values_mut().flat_map(operations) {
        let mut errors: Vec<LayerError> = OF_EVERY_ROUTE.into();
        if protected {
            errors.extend(OF_PROTECTED_ROUTES);
        }
        if operation.request_body.is_some() {
            errors.extend(OF_BODIES);
        }
        for (status, description, wait) in errors {
            let described = operation.responses.responses.entry(status.to_owned());
            let response = described.or_insert_with(|| error(description).into());
            if let (RefOr::T(response), Some(wait)) = (response, wait) {
                response.headers.insert("retry-after".to_owned(), seconds(wait).into());
            }
        }
    }
    routes
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = path;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn error(description: &str) -> Response {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    ResponseBuilder::new().description(description).content("application/json", body).build()
}

fn seconds(description: &str) -> Header {
    let mut header = Header::new(ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build());
    header.description = Some(description.to_owned());
    header
}
