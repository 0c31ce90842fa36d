// Shows the API with Swagger UI. Everything comes from this server; the token that "Authorize"
// takes is kept in the page's memory only and is gone when the page is.
window.ui = SwaggerUIBundle({
  url: "/openapi.yaml",
  dom_id: "#api",
  layout: "BaseLayout",
  deepLinking: true,
  validatorUrl: null,
  queryConfigEnabled: false,
  persistAuthorization: false,
  docExpansion: "list",
  tryItOutEnabled: true,
});
