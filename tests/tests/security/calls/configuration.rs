//! The calls about datastores, rules of how fast clients may be, and S3 servers.

use super::NONE;
use crate::row::Outcome::{Filtered, Refused};
use crate::row::{Row, rest};

pub(super) const ROWS: &[Row] = &[
    rest("GET", "/api2/json/config/datastore", NONE, Filtered, 200),
    rest(
        "POST",
        "/api2/json/config/datastore",
        [
            "name=vault&backend=filesystem&path=/nowhere",
            "name=missing&backend=filesystem&path=/nowhere",
        ],
        Refused(403),
        400,
    ),
    rest(
        "GET",
        "/api2/json/config/datastore/{name}",
        ["name=vault", "name=missing"],
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/config/traffic-control",
        NONE,
        Refused(403),
        200,
    ),
    rest(
        "POST",
        "/api2/json/config/traffic-control",
        ["name=slow&rate-in=1GiB", "name=missing&rate-in=0"],
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/config/traffic-control/{name}",
        ["name=slow", "name=missing"],
        Refused(403),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/config/traffic-control/{name}",
        ["name=slow&comment=c", "name=missing&comment=c"],
        Refused(403),
        200,
    ),
    rest(
        "DELETE",
        "/api2/json/config/traffic-control/{name}",
        ["name=slow", "name=missing"],
        Refused(403),
        200,
    ),
    rest("GET", "/api2/json/config/s3", NONE, Refused(403), 200),
    rest(
        "POST",
        "/api2/json/config/s3",
        [
            "id=bucket-server&endpoint=http://127.0.0.1:9",
            "id=missing&endpoint=http://127.0.0.1:9",
        ],
        Refused(403),
        400,
    ),
    rest(
        "GET",
        "/api2/json/config/s3/{id}",
        ["id=bucket-server", "id=missing"],
        Refused(403),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/config/s3/{id}",
        ["id=bucket-server&comment=c", "id=missing&comment=c"],
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/config/s3/{id}/list-buckets",
        ["id=bucket-server", "id=missing"],
        Refused(403),
        200,
    ),
    rest(
        "POST",
        "/api2/json/admin/s3/{id}/create-bucket",
        [
            "id=bucket-server&bucket=backups",
            "id=missing&bucket=backups",
        ],
        Refused(403),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/admin/s3/{id}/check",
        [
            "id=bucket-server&bucket=backups",
            "id=missing&bucket=backups",
        ],
        Refused(403),
        200,
    ),
];
