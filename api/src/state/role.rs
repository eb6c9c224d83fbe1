//! Roles of tokens, and which of them includes which.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a token permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads the metrics, nothing else: for Prometheus.
    Metrics,
    /// Reads and verifies the audit trail, nothing else.
    Auditor,
    /// Sees the state of cameras, and sightings whose id it was given.
    Viewer,
    /// Searches for people, and what a viewer may.
    Operator,
    /// Adds and removes cameras, erases people, manages tokens, and what all others may.
    Admin,
}

impl Role {
    /// Returns the role's name, as used in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Auditor => "auditor",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Whether this role may do what `needed` may.
    pub fn includes(self, needed: Self) -> bool {
        self == needed || self == Self::Admin || (self == Self::Operator && needed == Self::Viewer)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            "auditor" => Ok(Self::Auditor),
            "metrics" => Ok(Self::Metrics),
            _ => Err(format!("{s:?} is not a role: use admin, operator, viewer, auditor or metrics")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_include_what_they_should() {
        let all = [Role::Metrics, Role::Auditor, Role::Viewer, Role::Operator, Role::Admin];
        for role in all {
            assert_eq!(role.as_str().parse(), Ok(role));
            let may: Vec<Role> = all.into_iter().filter(|&needed| role.includes(needed)).collect();
            let wanted = match role {
                Role::Operator => vec![Role::Viewer, Role::Operator],
                Role::Admin => all.to_vec(),
                only => vec![only],
            };
            assert_eq!(may, wanted, "{role}");
        }
    }
}
