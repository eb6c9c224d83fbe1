//! Request handlers, one module per resource.

pub mod audit;
pub mod cameras;
pub mod erasures;
pub mod health;
pub mod search;
pub mod sightings;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

/// Returns the public routes, and the routes that need a token.
pub(crate) fn all() -> (OpenApiRouter<App>, OpenApiRouter<App>) {
    let open = OpenApiRouter::new().routes(routes!(health::healthz)).routes(routes!(health::readyz));
    let protected = OpenApiRouter::new()
        .routes(routes!(search::search))
        .routes(routes!(sightings::sighting))
        .routes(routes!(sightings::thumbnail))
        .routes(routes!(cameras::list, cameras::add))
        .routes(routes!(cameras::get, cameras::remove))
        .routes(routes!(erasures::start, erasures::list))
        .routes(routes!(erasures::get))
        .routes(routes!(audit::audit))
        .routes(routes!(health::metrics));
    (open, protected)
}
