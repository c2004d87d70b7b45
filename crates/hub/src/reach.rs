//! Whether the Hub answers, and whom it takes us for.

use crate::Error;
use crate::http::{Call, Client};
use crate::watch::Watch;
use serde::Deserialize;

#[derive(Deserialize)]
struct Who {
    name: String,
}

impl Client {
    /// Asks the Hub who the token belongs to; without a token, whether it answers at all (`None`).
    ///
    /// # Errors
    /// Offline, no connection, a token that the Hub does not know.
    pub fn reach(&self, watch: &dyn Watch) -> Result<Option<String>, Error> {
        if self.is_offline() {
            return Err(Error::Offline { needed: "the Hub was asked for an answer".to_owned() });
        }
        if self.settings.token.is_none() {
            return self.send(&Call::get(self.endpoint.with("/api/models?limit=1")), watch, |_| Ok(None));
        }
        let who: Who = self.send(&Call::get(self.endpoint.with("/api/whoami-v2")), watch, |reply| reply.json())?;
        Ok(Some(who.name))
    }
}
