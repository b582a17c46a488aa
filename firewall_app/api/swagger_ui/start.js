// The token of the "Authorize" button stays in this page: it is not kept in the browser.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  filter: true,
  docExpansion: "list",
  persistAuthorization: false,
  validatorUrl: null,
});
