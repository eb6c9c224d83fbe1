//! Request handlers, one module per resource, and the table of all routes with the role that each
//! demands.

pub mod audit;
pub mod cameras;
pub mod health;
pub mod search;
pub mod sightings;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use crate::app::App;
use crate::auth::{Scope, demand};
use crate::state::Role;

/// Returns the public routes, and the routes that need a token.
pub(crate) fn all() -> (OpenApiRouter<App>, OpenApiRouter<App>) {
    let open = OpenApiRouter::new().routes(routes!(health::healthz)).routes(routes!(health::readyz));
    let protected = Protected::default()
        .route(Role::Operator, Scope::SomeCameras, routes!(search::search))
        .route(Role::Viewer, Scope::SomeCameras, routes!(sightings::sighting))
        .route(Role::Viewer, Scope::SomeCameras, routes!(sightings::thumbnail))
        .route(Role::Viewer, Scope::SomeCameras, routes!(cameras::list))
        .route(Role::Admin, Scope::AllCameras, routes!(cameras::add))
        .route(Role::Viewer, Scope::SomeCameras, routes!(cameras::get))
        .route(Role::Admin, Scope::AllCameras, routes!(cameras::remove))
        .route(Role::Auditor, Scope::AllCameras, routes!(audit::audit))
        .route(Role::Auditor, Scope::AllCameras, routes!(audit::verify))
        .route(Role::Metrics, Scope::AllCameras, routes!(health::metrics));
    (open, protected.routes)
}

/// Routes that need a token. None can be added without its role, which is checked before the body
/// of a request is read.
#[derive(Default)]
struct Protected {
    routes: OpenApiRouter<App>,
}

impl Protected {
    fn route(self, role: Role, scope: Scope, (schemas, paths, router): UtoipaMethodRouter<App>) -> Self {
        let layer = from_fn(move |request: Request, next: Next| demand(role, scope, request, next));
        Self { routes: self.routes.routes((schemas, paths, router.route_layer(layer))) }
    }
}
