//! Which connections are open, and whose.
//!
//! Connections are bounded in all and for each address; of IPv6 addresses the first 64 bits count, as their holder can have
//! all that begin so. When there are as many as there may be, whoever comes from an address that holds fewer displaces
//! one of the address that holds most: one on which nothing goes on, if there is such a one. So no crowd of connections
//! keeps others out unless each of its addresses holds no more than they do.
//!
//! Those that have not sent a request yet are bounded besides. One that only finds no place among them waits for it: sixty
//! clients behind one address may well begin at the same moment.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::auth::{AuthId, network_of};
use crate::traffic::Lane;

/// Which part of the connections may be without a request yet.
const HALF_OPEN_PART: usize = 4;
/// Which part of the connections may come from one address.
const ADDRESS_PART: usize = 2;
/// Once half of the places without a request are taken, which part of them one address may have. Until then it may have
/// more.
const ADDRESS_HALF_OPEN_PART: usize = 8;

/// Time between two lines in the log about connections that were closed for want of a place.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The places of all connections.
#[derive(Debug)]
pub(crate) struct Places {
    all_max: usize,
    address_max: usize,
    half_open: Arc<Semaphore>,
    half_open_max: usize,
    /// A place without a request was given back.
    freed: Notify,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Connections closed for want of a place since the last line about it, and when that was written.
    closed: u64,
    told: Option<Instant>,
    next: u64,
    /// Oldest first.
    open: BTreeMap<u64, Open>,
    by_address: HashMap<IpAddr, Held>,
}

/// An open connection.
#[derive(Debug)]
struct Open {
    address: IpAddr,
    /// A request is being answered.
    busy: bool,
    /// Told when it is displaced.
    displaced: Arc<Notify>,
}

/// What one address holds.
#[derive(Debug, Default)]
struct Held {
    open: usize,
    half_open: usize,
}

/// The place of one connection.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    id: u64,
    address: IpAddr,
    displaced: Arc<Notify>,
}

impl Place {
    /// Returns when the place was given to another connection; this one is to end.
    pub(crate) async fn displaced(&self) {
        self.displaced.notified().await;
    }

    /// A request is being answered, as long as the result lives.
    pub(crate) fn busy(&self) -> Busy {
        let busy = Busy {
            places: Arc::clone(&self.places),
            id: self.id,
        };
        busy.set(true);
        busy
    }
}

/// A connection on which a request is being answered.
#[derive(Debug)]
pub(crate) struct Busy {
    places: Arc<Places>,
    id: u64,
}

impl Busy {
    fn set(&self, busy: bool) {
        if let Some(open) = self.places.lock().open.get_mut(&self.id) {
            open.busy = busy;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// The connection of a request, for an answer that goes on after it has begun; clones mean the same one.
///
/// A body that nobody takes hears of nothing: whoever wants it to end has to end the connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    hung_up: Arc<Notify>,
    /// How fast it may be; nothing limits what is no connection of a client.
    lane: Option<Lane>,
    /// It stays busy as long as anybody has the line.
    _busy: Option<Arc<Busy>>,
}

impl Line {
    /// A connection that is as fast as `lane` says.
    pub(crate) fn in_lane(lane: Lane) -> Self {
        Self {
            lane: Some(lane),
            ..Self::default()
        }
    }

    /// The line of a request on a connection with a place.
    pub(crate) fn of(&self, busy: Busy) -> Self {
        Self {
            _busy: Some(Arc::new(busy)),
            ..self.clone()
        }
    }

    /// From now on the rates of `who` are the connection's.
    pub(crate) fn belongs_to(&self, who: &AuthId) {
        if let Some(lane) = &self.lane {
            lane.belongs_to(who);
        }
    }

    /// Ends the connection at once, in the middle of whatever is under way.
    pub(crate) fn hang_up(&self) {
        self.hung_up.notify_one();
    }

    /// Returns when the connection is to be ended.
    pub(crate) async fn hung_up(&self) {
        self.hung_up.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(self.id);
    }
}

/// The place of a connection without a request yet.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    places: Arc<Places>,
    address: IpAddr,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.places
            .lock()
            .give_back(self.address, |held| held.half_open -= 1);
        drop(self.permit.take());
        self.places.freed.notify_waiters();
    }
}

impl Table {
    fn held(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).map_or(0, |held| held.open)
    }

    fn remove(&mut self, id: u64) {
        if let Some(open) = self.open.remove(&id) {
            self.give_back(open.address, |held| held.open -= 1);
        }
    }

    fn give_back(&mut self, address: IpAddr, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.by_address.get_mut(&address) {
            change(held);
            if held.open == 0 && held.half_open == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// Ends a connection in favour of one from `address`; whether there was one to end.
    fn displace_for(&mut self, address: IpAddr) -> bool {
        let of_most = self.by_address.iter().max_by_key(|(_, held)| held.open);
        let Some((most, held)) = of_most.map(|(most, held)| (*most, held.open)) else {
            return false;
        };
        // After it both hold as many, at least.
        if held < self.held(address) + 2 {
            return false;
        }
        let of_most = || self.open.iter().filter(|(_, open)| open.address == most);
        let idle = of_most().find(|(_, open)| !open.busy);
        let Some((id, open)) = idle.or_else(|| of_most().next()) else {
            return false;
        };
        let id = *id;
        open.displaced.notify_one();
        self.remove(id);
        true
    }
}

impl Places {
    /// Places for `connections_max` connections.
    pub(crate) fn new(connections_max: u64) -> Self {
        let all_max = usize::try_from(connections_max)
            .unwrap_or(Semaphore::MAX_PERMITS)
            .min(Semaphore::MAX_PERMITS);
        let half_open_max = (all_max / HALF_OPEN_PART).max(1);
        Self {
            all_max,
            address_max: (all_max / ADDRESS_PART).max(1),
            half_open: Arc::new(Semaphore::new(half_open_max)),
            half_open_max,
            freed: Notify::new(),
            table: Mutex::default(),
        }
    }

    /// The place of a connection; `None` if there are too many.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network_of(address);
        let mut table = self.lock();
        if table.held(address) >= self.address_max {
            return None;
        }
        if table.open.len() >= self.all_max && !table.displace_for(address) {
            return None;
        }
        let id = table.next;
        table.next += 1;
        let displaced = Arc::<Notify>::default();
        let open = Open {
            address,
            busy: false,
            displaced: Arc::clone(&displaced),
        };
        table.open.insert(id, open);
        table.by_address.entry(address).or_default().open += 1;
        drop(table);
        Some(Place {
            places: Arc::clone(self),
            id,
            address,
            displaced,
        })
    }

    /// A place without a request, for the connection of `place`; `None` if its address has its part of them.
    fn try_half_open(self: &Arc<Self>, place: &Place) -> Option<HalfOpen> {
        // Under the lock, so that nobody misses a permit that another takes and gives back.
        let mut table = self.lock();
        let permit = Arc::clone(&self.half_open).try_acquire_owned().ok()?;
        let scarce = self.half_open.available_permits() < self.half_open_max / 2;
        let part = if scarce {
            (self.half_open_max / ADDRESS_HALF_OPEN_PART).max(1)
        } else {
            self.half_open_max
        };
        let held = table.by_address.entry(place.address).or_default();
        if held.half_open >= part {
            return None;
        }
        held.half_open += 1;
        drop(table);
        Some(HalfOpen {
            places: Arc::clone(self),
            address: place.address,
            permit: Some(permit),
        })
    }

    /// Waits for a place without a request.
    pub(crate) async fn half_open(self: &Arc<Self>, place: &Place) -> HalfOpen {
        loop {
            let mut freed = pin!(self.freed.notified());
            // From here on no return is missed.
            freed.as_mut().enable();
            if let Some(half_open) = self.try_half_open(place) {
                return half_open;
            }
            freed.await;
        }
    }

    /// A connection was closed for want of a place: how many were since the last line in the log, if it is time for
    /// another. Whoever is turned away comes again at once, and must not fill the log.
    pub(crate) fn closed_one(&self) -> Option<u64> {
        let (now, mut table) = (Instant::now(), self.lock());
        table.closed += 1;
        if table.told.is_some_and(|told| now < told + TELL_EVERY) {
            return None;
        }
        table.told = Some(now);
        Some(std::mem::take(&mut table.closed))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn places_are_bounded_in_all_by_address_and_half_open() {
        let places = Arc::new(Places::new(16));
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let mut open: Vec<_> = (0..8)
            .map(|_| places.take(address(1)).expect("room"))
            .collect();
        assert!(
            places.take(address(1)).is_none(),
            "half of all from one address"
        );
        open.extend((2..10).map(|last| places.take(address(last)).expect("room")));
        let half_open: Vec<_> = open[8..12]
            .iter()
            .map(|place| places.try_half_open(place).expect("room"))
            .collect();
        assert!(
            places.try_half_open(&open[15]).is_none(),
            "a quarter without a request"
        );
        drop(half_open);
        assert!(places.try_half_open(&open[15]).is_some());
        open.clear();
        assert!(places.lock().by_address.is_empty());
        assert!(places.lock().open.is_empty());
    }

    #[tokio::test]
    async fn one_address_leaves_places_for_others_and_its_further_ones_wait() {
        let places = Arc::new(Places::new(512));
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let open = |last: u8, count: usize| {
            let places = Arc::clone(&places);
            std::iter::repeat_with(move || places.take(address(last)).expect("room"))
                .take(count)
                .collect::<Vec<_>>()
        };
        let first = open(1, 100);
        let mut silent: Vec<_> = first
            .iter()
            .filter_map(|place| places.try_half_open(place))
            .collect();
        assert_eq!(silent.len(), 64, "half of them while nobody else needs any");
        let others: Vec<_> = (2..6).flat_map(|last| open(last, 20)).collect();
        let others_silent: Vec<_> = others
            .iter()
            .filter_map(|place| places.try_half_open(place))
            .collect();
        assert_eq!(others_silent.len(), 4 * 16, "then an eighth for each");
        let late = others.last().expect("there are some");
        assert!(places.try_half_open(late).is_none());
        drop(others_silent);
        let mut waiting = Box::pin(places.half_open(&first[99]));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        silent.truncate(10);
        drop(waiting.as_mut().await);
        drop(waiting);
        drop((silent, first, others));
        assert!(places.lock().by_address.is_empty());
    }

    #[tokio::test]
    async fn whoever_holds_most_makes_room_for_others() {
        let places = Arc::new(Places::new(16));
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let crowd: Vec<_> = (1..=2)
            .flat_map(|last| [address(last); 8])
            .map(|address| places.take(address).expect("room"))
            .collect();
        let _busy = crowd[0].busy();
        let soon = Duration::from_secs(1);
        let mut others = Vec::new();
        for last in 3..=4 {
            for _ in 0..2 {
                others.push(places.take(address(last)).expect("a place is made"));
            }
        }
        let mut displaced = 0;
        for place in &crowd {
            displaced += usize::from(timeout(soon / 100, place.displaced()).await.is_ok());
        }
        assert_eq!(displaced, others.len());
        assert_eq!(places.lock().open.len(), 16);
        assert!(places.lock().open.contains_key(&crowd[0].id), "it is busy");
        assert!(
            places.take(address(1)).is_none(),
            "who holds most gets none"
        );
        drop((crowd, others));
        assert!(places.lock().by_address.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let places = Arc::new(Places::new(16));
        let address = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let open: Vec<_> = (0..16)
            .filter_map(|last| places.take(address(last)))
            .collect();
        assert_eq!(open.len(), 8);
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201]);
        assert!(places.take(mapped).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn lines_about_closed_connections_are_few() {
        let places = Places::new(16);
        assert_eq!(places.closed_one(), Some(1));
        for _ in 0..1000 {
            assert_eq!(places.closed_one(), None);
        }
        tokio::time::advance(TELL_EVERY).await;
        assert_eq!(places.closed_one(), Some(1001));
    }
}
