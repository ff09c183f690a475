//! The calls about jobs, and about the work that jobs do.

use super::{NONE, STORE};
use crate::row::Outcome::{Filtered, Refused};
use crate::row::{Row, rest};

pub(super) const ROWS: &[Row] = &[
    rest(
        "POST",
        "/api2/json/config/prune",
        [
            "id=nightly-prune&store=vault&keep-last=1000",
            "id=absent-job&store=missing&keep-last=1000",
        ],
        Refused(403),
        400,
    ),
    rest("GET", "/api2/json/config/prune", NONE, Filtered, 200),
    rest("GET", "/api2/json/admin/prune", NONE, Filtered, 200),
    rest(
        "GET",
        "/api2/json/config/prune/{id}",
        ["id=nightly-prune", "id=absent-job"],
        Refused(400),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/config/prune/{id}",
        ["id=nightly-prune&comment=c", "id=absent-job&comment=c"],
        Refused(400),
        200,
    ),
    rest(
        "POST",
        "/api2/json/admin/prune/{id}/run",
        ["id=nightly-prune", "id=absent-job"],
        Refused(400),
        200,
    ),
    rest(
        "DELETE",
        "/api2/json/config/prune/{id}",
        ["id=nightly-prune", "id=absent-job"],
        Refused(400),
        200,
    ),
    rest(
        "POST",
        "/api2/json/config/verify",
        [
            "id=nightly-verify&store=vault",
            "id=absent-job&store=missing",
        ],
        Refused(403),
        400,
    ),
    rest("GET", "/api2/json/config/verify", NONE, Filtered, 200),
    rest("GET", "/api2/json/admin/verify", NONE, Filtered, 200),
    rest(
        "GET",
        "/api2/json/config/verify/{id}",
        ["id=nightly-verify", "id=absent-job"],
        Refused(400),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/config/verify/{id}",
        ["id=nightly-verify&comment=c", "id=absent-job&comment=c"],
        Refused(400),
        200,
    ),
    rest(
        "POST",
        "/api2/json/admin/verify/{id}/run",
        ["id=nightly-verify", "id=absent-job"],
        Refused(400),
        200,
    ),
    rest(
        "DELETE",
        "/api2/json/config/verify/{id}",
        ["id=nightly-verify", "id=absent-job"],
        Refused(400),
        200,
    ),
    rest("GET", "/api2/json/admin/gc", NONE, Filtered, 200),
    rest(
        "GET",
        "/api2/json/status/datastore-usage",
        NONE,
        Filtered,
        200,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/active-operations",
        STORE,
        Refused(403),
        200,
    ),
    // It is in a directory.
    rest(
        "PUT",
        "/api2/json/admin/datastore/{store}/s3-refresh",
        STORE,
        Refused(403),
        200,
    ),
    rest(
        "POST",
        "/api2/json/admin/datastore/{store}/verify",
        STORE,
        Refused(403),
        200,
    ),
    rest(
        "POST",
        "/api2/json/admin/datastore/{store}/prune-datastore",
        ["store=vault&keep-last=1000", "store=missing&keep-last=1000"],
        Refused(403),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/config/datastore/{name}",
        ["name=vault&comment=c", "name=missing&comment=c"],
        Refused(403),
        200,
    ),
];
