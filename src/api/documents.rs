//! The document and its two pages (CONTRACT.md 9.9). Everything comes out of this binary: the pages work without
//! internet, and a policy for each forbids them anything else.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY,
    VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::bodies::settings::OpenApiDocument;
use super::document::Tagged;
use super::error::ApiError;
use super::health::named;
use super::lists::{matches, not_modified};

/// The script of ReDoc, packed: see `assets/redoc/README.md`.
const REDOC: &[u8] = include_bytes!("../../assets/redoc/redoc.standalone.js.gz");

const SWAGGER_PAGE: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>as-infrastructure-service: Swagger UI</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/page.js"></script>
</body>
</html>
"#;

const SWAGGER_SCRIPT: &str = r##"SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"##;

const REDOC_PAGE: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>as-infrastructure-service: ReDoc</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/redoc/page.css">
</head>
<body>
<redoc spec-url="/openapi.json"></redoc>
<script src="/redoc/redoc.standalone.js"></script>
</body>
</html>
"#;

const REDOC_STYLE: &str = "body { margin: 0; padding: 0; }\n";

/// Scripts of our own only, none written into a page and none made of text; both pages write styles as they go, and
/// draw small pictures out of `data:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// ReDoc searches in a worker that it makes of its own script.
const REDOC_POLICY: &str = "default-src 'none'; script-src 'self'; worker-src blob:; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// What is no page loads nothing at all.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

/// The document, as text and packed.
static DOCUMENT: LazyLock<(String, Vec<u8>)> = LazyLock::new(|| {
    let text = super::openapi();
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    let packed = packer.write_all(text.as_bytes()).and_then(|()| packer.finish());
    (text, packed.unwrap_or_default())
});

/// One file as it is kept.
struct File {
    media: &'static str,
    policy: &'static str,
    bytes: Cow<'static, [u8]>,
    packed: bool,
}

impl File {
    fn plain(media: &'static str, policy: &'static str, text: &'static str) -> Self {
        Self { media, policy, bytes: Cow::Borrowed(text.as_bytes()), packed: false }
    }

    /// The answer for a client that takes what `headers` say.
    async fn answer(self, headers: &HeaderMap) -> Result<Response, ApiError> {
        let mut hasher = DefaultHasher::new();
        self.bytes.hash(&mut hasher);
        let tag = format!("W/\"{:x}\"", hasher.finish());
        let mut response = if matches(headers, &tag) {
            not_modified(&tag)
        } else if self.packed && !takes_gzip(headers) {
            let bytes = self.bytes;
            let unpacked = tokio::task::spawn_blocking(move || {
                let mut whole = Vec::new();
                GzDecoder::new(&*bytes).read_to_end(&mut whole).map(|_| whole)
            });
            let whole = unpacked.await.ok().and_then(Result::ok);
            Response::new(Body::from(whole.ok_or(ApiError::Internal("Internal server error"))?))
        } else {
            let mut response = Response::new(Body::from(match self.bytes {
                Cow::Borrowed(bytes) => Bytes::from_static(bytes),
                Cow::Owned(bytes) => Bytes::from(bytes),
            }));
            if self.packed {
                response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        };
        let fixed = [
            (CONTENT_TYPE, self.media),
            (CONTENT_SECURITY_POLICY, self.policy),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
            (REFERRER_POLICY, "no-referrer"),
            (CACHE_CONTROL, "no-cache"),
            (VARY, "accept-encoding"),
        ];
        let headers = response.headers_mut();
        headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
        headers.extend(HeaderValue::from_str(&tag).ok().map(|tag| (ETAG, tag)));
        Ok(response)
    }
}

/// Whether a client takes packed answers.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let given = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|one| {
        let (name, weight) = one.split_once(';').unwrap_or((one, ""));
        let refused = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok()) == Some(0.0);
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

/// `GET /openapi.json`: this document.
#[utoipa::path(get, path = "/openapi.json", operation_id = "getOpenApi", responses((status = 200, body = OpenApiDocument), Tagged))]
pub(super) async fn openapi(headers: HeaderMap) -> Result<Response, ApiError> {
    let packed = takes_gzip(&headers) && !DOCUMENT.1.is_empty();
    let bytes = if packed { DOCUMENT.1.as_slice() } else { DOCUMENT.0.as_bytes() };
    let file = File { media: "application/json", policy: NOTHING, bytes: Cow::Borrowed(bytes), packed };
    file.answer(&headers).await
}

/// `GET /docs`: Swagger UI, to read this document and try it.
#[utoipa::path(get, path = "/docs", operation_id = "getSwaggerUi",
    responses((status = 200, body = String, content_type = "text/html"), Tagged))]
pub(super) async fn swagger(headers: HeaderMap) -> Result<Response, ApiError> {
    File::plain("text/html; charset=utf-8", POLICY, SWAGGER_PAGE).answer(&headers).await
}

/// `GET /docs/{file}`: what Swagger UI is made of.
#[utoipa::path(get, path = "/docs/{file}", operation_id = "getSwaggerUiFile", responses(
    (status = 200, content((String = "text/javascript"), (String = "text/css"), (String = "image/png"))),
    (status = 404, description = "Not Found"), Tagged))]
pub(super) async fn swagger_file(
    file: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let name = named(file);
    let media = match name.as_str() {
        "page.js" => {
            return File::plain("text/javascript; charset=utf-8", NOTHING, SWAGGER_SCRIPT).answer(&headers).await;
        }
        "swagger-ui-bundle.js" => "text/javascript; charset=utf-8",
        "swagger-ui.css" => "text/css; charset=utf-8",
        "favicon-32x32.png" => "image/png",
        _ => return Err(ApiError::UnknownPath),
    };
    let config = Arc::new(utoipa_swagger_ui::Config::from("/openapi.json"));
    let found = utoipa_swagger_ui::serve(&name, config).ok().flatten().ok_or(ApiError::UnknownPath)?;
    File { media, policy: NOTHING, bytes: found.bytes, packed: found.gzpipped }.answer(&headers).await
}

/// `GET /redoc`: ReDoc, to read this document.
#[utoipa::path(get, path = "/redoc", operation_id = "getRedoc",
    responses((status = 200, body = String, content_type = "text/html"), Tagged))]
pub(super) async fn redoc(headers: HeaderMap) -> Result<Response, ApiError> {
    File::plain("text/html; charset=utf-8", REDOC_POLICY, REDOC_PAGE).answer(&headers).await
}

/// `GET /redoc/{file}`: what ReDoc is made of.
#[utoipa::path(get, path = "/redoc/{file}", operation_id = "getRedocFile", responses(
    (status = 200, content((String = "text/javascript"), (String = "text/css"))),
    (status = 404, description = "Not Found"), Tagged))]
pub(super) async fn redoc_file(
    file: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let file = match named(file).as_str() {
        "redoc.standalone.js" => {
            File { media: "text/javascript; charset=utf-8", policy: NOTHING, bytes: Cow::Borrowed(REDOC), packed: true }
        }
        "page.css" => File::plain("text/css; charset=utf-8", NOTHING, REDOC_STYLE),
        _ => return Err(ApiError::UnknownPath),
    };
    file.answer(&headers).await
}
