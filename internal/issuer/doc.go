// Package issuer is the built-in identity provider as clients see it over HTTP:
// OpenID discovery, public keys, the token endpoint and the pages that users sign in
// at, in the shapes of Microsoft Entra ID and AD FS. It hides paths, forms, OAuth
// errors and the brake on guessing.
//
// Rules:
//   - Every URL that it hands out lies on an origin of this server; a Host that is
//     not one of them is never repeated.
//   - A token is made only for an audience that this server knows.
//   - Answers of the token endpoint are never cached, and no answer or log record
//     holds a secret.
//   - Codes and device codes live in memory: who loses one to a
//     restart signs in again.
//   - A page needs no script, and its form counts only if it comes back from the browser
//     that it was shown to.
//
// What a token says and whether a secret or password is right is decided in package
// access.
package issuer
