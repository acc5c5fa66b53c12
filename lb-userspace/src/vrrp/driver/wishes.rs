//! What operators and the daemon ask for.

use super::{Driver, Running};
use crate::{
    core::CommandError,
    vrrp::{
        Request, VrrpCommand,
        fsm::{Input, Refusal},
        instance::Instance,
    },
};

impl Driver {
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::Command(command, answer) => {
                let outcome = self.command(&command);
                // Whoever asked may be gone.
                let _ = answer.send(outcome);
            }
            Request::Leave(done) => {
                let now = self.now();
                self.leaving = Some(done);
                for position in 0..self.running.len() {
                    let instance = &mut self.running[position].instance;
                    instance.retiring = true;
                    let outputs = instance.fsm.handle(Input::Leave, now);
                    self.carry_out(position, outputs);
                }
            }
        }
    }

    pub(super) fn command(&mut self, command: &VrrpCommand) -> Result<String, CommandError> {
        let (VrrpCommand::Preempt(name) | VrrpCommand::Release(name)) = command;
        let named = |each: &Running| each.instance.spec.name == *name && !each.instance.retiring;
        let Some(position) = self.running.iter().position(named) else {
            return Err(CommandError::NoInstance(name.clone()));
        };
        let group = self.running[position].instance.spec.sync_group.clone();
        let members: Vec<usize> = match &group {
            None => vec![position],
            Some(_) => (0..self.running.len())
                .filter(|each| {
                    let instance = &self.running[*each].instance;
                    instance.spec.sync_group == group && !instance.retiring
                })
                .collect(),
        };
        let refused = |instance: &Instance, refusal: Refusal| {
            CommandError::Refused(format!("{}: {refusal}", instance.spec.name))
        };
        let now = self.now();
        match command {
            VrrpCommand::Preempt(_) => {
                for member in &members {
                    let instance = &self.running[*member].instance;
                    instance.fsm.preempts().map_err(|refusal| refused(instance, refusal))?;
                }
                for member in members {
                    if let Ok(outputs) = self.running[member].instance.fsm.preempt(now) {
                        self.carry_out(member, outputs);
                    }
                }
                Ok(format!("{name} is the master"))
            }
            VrrpCommand::Release(_) => {
                let instance = &mut self.running[position].instance;
                let outputs = instance.fsm.release(now);
                let outputs = outputs
                    .map_err(|refusal| refused(&self.running[position].instance, refusal))?;
                self.carry_out(position, outputs);
                for member in members.into_iter().filter(|member| *member != position) {
                    if let Ok(outputs) = self.running[member].instance.fsm.release(now) {
                        self.carry_out(member, outputs);
                    }
                }
                Ok(format!(
                    "{name} gives its addresses up as soon as another balancer takes them; \
                     `weir vrrp preempt {name}` takes them back"
                ))
            }
        }
    }
}
