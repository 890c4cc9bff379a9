//! systemd-logind over D-Bus: it delays a shutdown for as long as a lock is held (org.freedesktop.login1(5)).

use zbus::zvariant::OwnedFd;

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
pub(super) trait Manager {
    /// The lock is held until the descriptor is closed.
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;

    /// `start`: the shutdown begins when all locks are gone. Otherwise it was cancelled.
    #[zbus(signal)]
    fn prepare_for_shutdown(&self, start: bool) -> zbus::Result<()>;

    /// The longest that a lock delays a shutdown, in microseconds.
    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> zbus::Result<u64>;
}

/// Connects to the bus at the address, or to the system's.
pub(super) async fn connect(address: Option<&str>) -> zbus::Result<ManagerProxy<'static>> {
    let builder = match address {
        Some(address) => zbus::connection::Builder::address(address)?,
        None => zbus::connection::Builder::system()?,
    };
    ManagerProxy::new(&builder.build().await?).await
}

/// A lock that delays the node's shutdown.
pub(super) async fn delay(manager: &ManagerProxy<'_>) -> zbus::Result<OwnedFd> {
    manager.inhibit("shutdown", "skep", "Pods of this node have time to end", "delay").await
}
