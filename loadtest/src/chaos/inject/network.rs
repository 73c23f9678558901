//! Faults of the network: of everybody's links, or of those of one process.

use std::time::Duration;

use super::super::kind::{Harm, Link, Queue, Role, Whose};
use super::super::plan::Fault;
use super::super::proxy;
use super::{Effect, Target, nobody};

impl Target {
    /// Does harm to one link, of whomever it is to be.
    pub(super) async fn harm_network(
        &self,
        (whose, link, harm): (Whose, Link, Harm),
        fault: &Fault,
    ) -> anyhow::Result<Effect> {
        let role = match whose {
            Whose::All => {
                let met = proxy::harm(&self.ground.all(link), harm, fault.lasts).await;
                return Ok(Effect::counted(met, "bytes or busy connections"));
            }
            Whose::Leader => Role::Coordinator,
            Whose::Worker => Role::Worker,
        };
        let Some((process, _turn)) = self.victim(role, fault.choice | 1).await else {
            return Ok(nobody());
        };
        let at_work = self.is_at_work(process);
        let proxies = [self.ground.links(process.place)?.proxy(link)];
        let met = proxy::harm(&proxies, harm, fault.lasts).await;
        Ok(Effect::of(at_work && met > 0, format!("{met} bytes or busy connections")))
    }

    /// One process hears from nobody and nobody from it, while all others go on.
    pub(super) async fn cut_off(&self, role: Role, fault: &Fault) -> anyhow::Result<Effect> {
        let Some((process, _turn)) = self.victim(role, fault.choice | 1).await else {
            return Ok(nobody());
        };
        let (at_work, unseated) = (self.is_at_work(process), self.about_to_unseat(process));
        let proxies = self.ground.links(process.place)?.all();
        let met = proxy::harm(&proxies, Harm::Blackhole, fault.lasts).await;
        let effect = Effect::of(at_work && met > 0, format!("{met} bytes held"));
        Ok(Effect { unseated, ..effect })
    }

    /// Empties a queue from which nobody takes meanwhile, as soon as there is something in it.
    pub(super) async fn purge(&self, queue: Queue) -> anyhow::Result<Effect> {
        let links = self
            .of_role(queue.consumer())
            .into_iter()
            .map(|process| Ok(self.ground.links(process.place)?.proxy(Link::Broker)));
        let links = links.collect::<anyhow::Result<Vec<_>>>()?;
        // Where nobody has a task, no outcome comes, and none is given back.
        let cut = async {
            self.wait_for_work().await;
            proxy::hold(&links, Harm::Cut, Duration::ZERO).await
        };
        Ok(Effect::counted(self.tap.purge(queue, cut).await?, "messages lost"))
    }
}
