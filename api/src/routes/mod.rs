//! Request handlers, one module per resource, and the table of all routes with the role that each
//! demands.

pub mod audit;
pub mod cameras;
pub mod erasures;
pub mod health;
pub mod search;
pub mod sightings;
pub mod tokens;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::desk::Gate;

/// Returns the public routes, and the routes that need a token. The role that each needs stands in
/// its handler, as the type of its [`crate::desk::Desk`].
pub(crate) fn all() -> (OpenApiRouter<Gate>, OpenApiRouter<Gate>) {
    let open = OpenApiRouter::new().routes(routes!(health::healthz)).routes(routes!(health::readyz));
    let protected = OpenApiRouter::new()
        .routes(routes!(search::search))
        .routes(routes!(sightings::sighting))
        .routes(routes!(sightings::thumbnail))
        .routes(routes!(cameras::list, cameras::add))
        .routes(routes!(cameras::get, cameras::remove))
        .routes(routes!(erasures::start, erasures::list))
        .routes(routes!(erasures::get))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(audit::audit))
        .routes(routes!(audit::verify))
        .routes(routes!(health::metrics));
    (open, protected)
}
