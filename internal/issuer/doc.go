// Package issuer is the built-in identity provider as clients see it over HTTP:
// OpenID discovery, public keys and the token endpoint, in the shapes of Microsoft
// Entra ID and AD FS. It hides paths, forms, OAuth errors and the brake on
// guessing.
//
// Rules:
//   - Every URL that it hands out lies on an origin of this server; a Host that is
//     not one of them is never repeated.
//   - A token is made only for an audience that this server knows.
//   - Answers of the token endpoint are never cached, and no answer or log record
//     holds a secret.
//
// What a token says and whether a secret is right is decided in package access.
// Applications with a client secret are served; there is no sign-in of users here.
package issuer
