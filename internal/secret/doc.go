// Package secret keeps secrets secret: it seals them for the disk and keeps them
// out of logs, errors and answers. It hides the cipher, the stored format and
// the rules of redaction.
//
// Rules:
//   - A sealed text opens only with the associated text it was sealed with, so a
//     stored secret cannot be moved to another resource or field.
//   - Each sealed text has a data key of its own, wrapped by the master key. A
//     change of the master key wraps data keys anew and touches nothing else.
//   - A [String] shows itself to [String.Reveal] only.
//   - Private keys that need a file of their own lie there sealed ([File]), and files
//     are replaced whole ([WritePrivate]).
//   - The master key file is refused when others than its owner may read it.
//
// It does not protect from someone who has both the data directory and the
// master key, nor from someone who can read this process's memory.
//
// Source: spec/access.md section 14.4.
package secret
