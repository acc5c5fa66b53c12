//! What operators ask for: checked whole, then done whole.

use std::net::IpAddr;

use super::{
    BackendChange, BackendId, Command, CommandError, Core, Expect, Now, Unsaved,
    changes::{Admin, Changes},
};
use crate::config::{self, Backend as Spec, Name, Service as ServiceSpec};

/// The largest weight.
pub(super) const WEIGHT_MAX: u16 = 256;

impl Core {
    /// Does what an operator asks for, and says in a sentence what was done.
    ///
    /// # Errors
    ///
    /// [`CommandError`]; nothing has changed then.
    pub fn command(&mut self, command: Command, now: Now) -> Result<String, CommandError> {
        let service = command.id().service.clone();
        let served = self.serves(&service);
        let done = match command {
            Command::Put { id, change, expect } => self.put(&id, &change, expect, now),
            Command::Remove { id, now: at_once } => self.remove(&id, at_once, now),
            Command::Drain(id) => self.administer(&id, Admin::Drain, now),
            Command::Maintenance(id) => self.administer(&id, Admin::Maintenance, now),
            Command::Enable(id) => self.administer(&id, Admin::Serve, now),
        }?;
        if served && !self.serves(&service) {
            // Allowed, and worth a word.
            return Ok(format!(
                "{done}; it was the last one: {service} has no backend for new flows now"
            ));
        }
        Ok(done)
    }

    /// Whether a service has a backend for new flows.
    fn serves(&self, service: &Name) -> bool {
        self.services.get(service).is_some_and(|service| {
            service.backends.values().any(|backend| backend.ring_weight() > 0)
        })
    }

    fn put(
        &mut self,
        id: &BackendId,
        change: &BackendChange,
        expect: Expect,
        now: Now,
    ) -> Result<String, CommandError> {
        let service = self.spec(&id.service)?;
        let current = self.backend(id).map(|backend| backend.spec.clone());
        match (expect, &current) {
            (Expect::Absent, Some(_)) => return Err(CommandError::Exists(id.clone())),
            (Expect::Present, None) => return Err(CommandError::NoBackend(id.clone())),
            _ => {}
        }
        let wanted = merged(service, &id.backend, current.as_ref(), change)?;
        self.refuse_duplicate(id, wanted.address)?;
        let done = format!("{id}: {}, weight {}", wanted.address, wanted.weight);
        self.edit(id, Some(wanted), now)?;
        Ok(done)
    }

    fn remove(&mut self, id: &BackendId, at_once: bool, now: Now) -> Result<String, CommandError> {
        self.existing(id)?;
        self.edit(id, None, now)?;
        if at_once {
            self.remove_leaving(id);
        }
        let drains = self.services.get(&id.service).is_some_and(|service| {
            service.leaving.values().any(|backend| backend.spec.name == id.backend)
        });
        Ok(if drains {
            format!("{id} takes no new flows and goes when its old ones have ended")
        } else {
            format!("{id} removed")
        })
    }

    fn administer(
        &mut self,
        id: &BackendId,
        admin: Admin,
        now: Now,
    ) -> Result<String, CommandError> {
        self.existing(id)?;
        let mut changes = self.changes.clone();
        changes.administer(id, admin);
        self.adopt_changes(changes, &id.service, now)?;
        self.stamp(id, now);
        Ok(match admin {
            Admin::Serve => format!("{id} is enabled; its checks decide"),
            Admin::Drain => {
                format!("{id} takes no new flows until `weir backend enable`; old ones stay")
            }
            Admin::Maintenance => format!("{id} is in maintenance until `weir backend enable`"),
        })
    }

    fn edit(&mut self, id: &BackendId, wanted: Option<Spec>, now: Now) -> Result<(), CommandError> {
        let mut changes = self.changes.clone();
        changes.edit(self.spec(&id.service)?, &id.backend, wanted);
        self.adopt_changes(changes, &id.service, now)?;
        self.stamp(id, now);
        Ok(())
    }

    /// Puts changes in force, or leaves all as it was if they do not fit.
    pub(super) fn adopt_changes(
        &mut self,
        changes: Changes,
        service: &Name,
        now: Now,
    ) -> Result<(), CommandError> {
        let spec = self.spec(service)?.clone();
        let before = self.clone();
        self.changes = changes;
        self.unsaved = Unsaved::Places;
        if let Err(error) = self.apply_backends(&spec, now) {
            *self = before;
            return Err(CommandError::Full(error));
        }
        self.forget_hops();
        Ok(())
    }

    fn spec(&self, service: &Name) -> Result<&ServiceSpec, CommandError> {
        self.config
            .services
            .iter()
            .find(|spec| spec.name == *service)
            .ok_or_else(|| CommandError::NoService(service.clone()))
    }

    fn existing(&self, id: &BackendId) -> Result<(), CommandError> {
        self.spec(&id.service)?;
        self.backend(id).map(|_| ()).ok_or_else(|| CommandError::NoBackend(id.clone()))
    }

    fn refuse_duplicate(&self, id: &BackendId, address: IpAddr) -> Result<(), CommandError> {
        let other = self.services.get(&id.service).and_then(|service| {
            service
                .backends
                .values()
                .find(|b| b.spec.name != id.backend && b.spec.address == address)
        });
        other.map_or(Ok(()), |other| {
            let name = &other.spec.name;
            Err(CommandError::Invalid(format!("{address} is already backend {name}")))
        })
    }
}

/// The backend that a change asks for.
fn merged(
    service: &ServiceSpec,
    name: &Name,
    current: Option<&Spec>,
    change: &BackendChange,
) -> Result<Spec, CommandError> {
    let invalid = |message: String| Err(CommandError::Invalid(message));
    if change.port.is_some_and(|port| port != service.port) {
        return invalid(
            "a backend's own port needs forward = \"nat\", which this version does not support; \
             leave the port out"
                .to_owned(),
        );
    }
    let Some(address) = change.address.or(current.map(|c| c.address)) else {
        return invalid("a new backend needs an address (--address)".to_owned());
    };
    if address.is_ipv4() != service.address.is_ipv4() && !service.forward.is_tunnel() {
        return invalid(format!("{address} is not of the family of the VIP {}", service.address));
    }
    let unusable = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    if unusable || address == service.address || address == IpAddr::from([255; 4]) {
        return invalid(format!("{address} cannot be a backend's address"));
    }
    if let Some(why) = config::unreachable(address) {
        return invalid(format!("{address} is {why}"));
    }
    let weight = change.weight.or(current.map(|c| c.weight)).unwrap_or(1);
    if weight > WEIGHT_MAX {
        return invalid(format!("weight {weight} is above {WEIGHT_MAX}"));
    }
    let backup = change.backup.or(current.map(|c| c.backup)).unwrap_or(false);
    Ok(Spec { name: name.clone(), address, weight, backup })
}
