// Command carillon is the whole of Carillon: server, client and demonstration.
package main

import (
	"context"
	"os"

	"github.com/carillon-events/carillon/internal/cli"
)

func main() {
	os.Exit(cli.Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}
