use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::*;

type Reserving = Pin<Box<dyn Future<Output = Result<Room, TooMany>>>>;

fn route(name: &str) -> Arc<str> {
    name.into()
}

fn reserving(rooms: &Arc<Rooms>, name: &str, count: u32, is_nested: bool) -> Reserving {
    let (rooms, route) = (Arc::clone(rooms), route(name));
    Box::pin(async move {
        let claim = Claim {
            route: &route,
            count,
            is_nested,
        };
        rooms.reserve(claim).await
    })
}

/// What there is by now.
fn look(reserving: &mut Reserving) -> Option<Room> {
    let mut context = Context::from_waker(Waker::noop());
    match reserving.as_mut().poll(&mut context) {
        Poll::Ready(room) => Some(room.expect("not too many")),
        Poll::Pending => None,
    }
}

/// Room for one instance of `name`, if it is there at once.
fn one(rooms: &Arc<Rooms>, name: &str) -> Option<Room> {
    look(&mut reserving(rooms, name, 1, false))
}

fn as_many_as_there_are(rooms: &Arc<Rooms>, name: &str) -> Vec<Room> {
    std::iter::from_fn(|| one(rooms, name)).collect()
}

#[test]
fn however_many_routes_take_all_they_get_some_is_left() {
    let rooms = Rooms::new(64);
    let first = as_many_as_there_are(&rooms, "first");
    assert_eq!(first.len(), 32, "half of it");
    let second = as_many_as_there_are(&rooms, "second");
    assert_eq!(second.len(), 16);
    let others: Vec<_> = ["third", "fourth", "fifth", "sixth"]
        .iter()
        .map(|name| as_many_as_there_are(&rooms, name).len())
        .collect();
    assert_eq!(others, [8, 8, 8, 8], "given back between them");
    let third = as_many_as_there_are(&rooms, "third");
    assert!(one(&rooms, "fourth").is_some());
    drop((first, second, third));
    assert_eq!(rooms.free(), 64);
    assert!(rooms.locked().lines.is_empty(), "nothing is kept of them");
}

#[test]
fn a_route_waits_in_a_line_of_its_own() {
    let rooms = Rooms::new(8);
    let mut hogs = as_many_as_there_are(&rooms, "hog");
    assert_eq!(hogs.len(), 4);
    let mut waiting: Vec<_> = (0..3).map(|_| reserving(&rooms, "hog", 1, false)).collect();
    assert!(waiting.iter_mut().all(|waiting| look(waiting).is_none()));
    let other = one(&rooms, "other");
    assert!(other.is_some(), "it does not wait behind them");
    // One of the line has left, and its place does not count.
    drop(waiting.remove(0));
    drop(other);
    hogs.pop();
    assert!(look(&mut waiting[0]).is_some(), "the first that waited");
    assert!(look(&mut waiting[1]).is_some(), "since that one is gone");
}

#[test]
fn a_route_that_has_none_goes_before_one_that_has_some() {
    let rooms = Rooms::new(7);
    let some = one(&rooms, "some");
    let others = look(&mut reserving(&rooms, "others", 6, false));
    let mut more = reserving(&rooms, "some", 1, false);
    let mut first = reserving(&rooms, "none", 6, false);
    assert!(look(&mut more).is_none() && look(&mut first).is_none());
    // Either may have it now.
    drop(others);
    let first = look(&mut first);
    assert!(first.is_some());
    assert!(look(&mut more).is_none());
    drop(first);
    assert!(look(&mut more).is_some());
    drop(some);
    assert_eq!(rooms.free(), 7);
}

#[test]
fn whoever_needs_several_is_not_passed_by() {
    let rooms = Rooms::new(4);
    let held = [one(&rooms, "a"), one(&rooms, "b"), one(&rooms, "c")];
    let mut several = reserving(&rooms, "several", 2, false);
    assert!(look(&mut several).is_none());
    assert!(one(&rooms, "d").is_none(), "the last one is kept for it");
    drop(held);
    assert!(look(&mut several).is_some());
}

#[test]
fn what_a_guest_waits_for_has_room_beyond_its_routes_share() {
    let rooms = Rooms::new(4);
    let outer = as_many_as_there_are(&rooms, "asks");
    assert_eq!(outer.len(), 2);
    let mut behind = reserving(&rooms, "asks", 1, false);
    assert!(look(&mut behind).is_none());
    let nested = look(&mut reserving(&rooms, "asks", 1, true));
    assert!(nested.is_some());
    let other = one(&rooms, "other");
    assert_eq!(rooms.free(), 0);
    let mut next = reserving(&rooms, "asks", 1, true);
    assert!(look(&mut next).is_none());
    drop(nested);
    assert!(look(&mut next).is_some(), "before those of its line");
    assert!(look(&mut behind).is_none());
    drop((outer, other));
    assert!(look(&mut behind).is_some());
}

#[test]
fn more_than_there_is_is_refused_at_once() {
    let rooms = Rooms::new(2);
    let mut context = Context::from_waker(Waker::noop());
    let mut all = reserving(&rooms, "route", 3, false);
    let refused = all.as_mut().poll(&mut context);
    assert!(matches!(refused, Poll::Ready(Err(TooMany))));
}

#[test]
fn nothing_is_kept_idle_while_somebody_is_short() {
    let rooms = Rooms::new(4);
    let spare = rooms.spare();
    assert!(spare.is_some());
    let held = [one(&rooms, "a"), one(&rooms, "b")];
    let mut short = reserving(&rooms, "c", 2, false);
    assert!(look(&mut short).is_none());
    assert_eq!(rooms.free(), 1);
    assert!(
        rooms.spare().is_none(),
        "it is kept for the one that is short"
    );
    drop(held);
    assert!(look(&mut short).is_some());
    assert!(rooms.spare().is_some());
    drop(spare);
    assert_eq!(rooms.free(), 4);
}
