use super::*;

#[test]
fn what_is_not_granted_has_no_route() {
    let reader = Grant { credential: Some(Access::Read), ..Grant::nothing() };
    assert_eq!(find(&reader, &Method::POST, "/v1/credential"), Some(Route::Credential(Access::Read)));
    for (method, path) in [
        (Method::GET, "/v1/status"),
        (Method::POST, "/v1/stop"),
        (Method::POST, "/v1/reload"),
        (Method::GET, "/metrics"),
        (Method::GET, "/v1/credential"),
        (Method::POST, "/v1/credential/"),
        (Method::POST, "//v1/credential"),
        (Method::GET, "/registry/us-python.pkg.dev/acme/private/"),
        (Method::GET, "/index/us-python.pkg.dev/acme/private/simple/x/"),
        (Method::GET, "/simple/x/"),
    ] {
        assert_eq!(find(&reader, &method, path), None, "{method} {path}");
    }
    let owner = Grant::owner();
    assert_eq!(find(&owner, &Method::POST, "/v1/stop"), Some(Route::Stop));
    assert_eq!(find(&owner, &Method::GET, "/v1/stop"), None);
    assert_eq!(find(&owner, &Method::GET, "/registry/x"), Some(Route::Proxied(Proxied::Registry)));
    assert_eq!(find(&owner, &Method::GET, "/registryx"), None);
}
