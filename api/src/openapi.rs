//! OpenAPI description of the API. The calls that register the routes also collect its paths, so it
//! lists exactly the routes that are served.

use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, SecurityRequirement};
use utoipa_axum::router::OpenApiRouter;

use crate::desk::Gate;

/// Path of the OpenAPI description.
pub const PATH: &str = "/openapi.json";

#[derive(OpenApi)]
#[openapi(info(
    title = "Sightline",
    description = "Find a person in live camera footage by describing them. Every error has the body \
                   {code, message, request_id}; unknown fields are refused.",
    license(name = "Apache-2.0", identifier = "Apache-2.0")
))]
struct Base;

/// Creates an empty router whose description declares bearer tokens.
pub fn base() -> OpenApiRouter<Gate> {
    let mut api = Base::openapi();
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    api.components.get_or_insert_with(Components::default).add_security_scheme("token", bearer);
    api.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("token", [])]);
    OpenApiRouter::with_openapi(api)
}
