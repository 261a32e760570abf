package bench

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/valyala/fasthttp"
)

// newTLSSink returns a handler that is reached over TLS, and the file of the authority
// that vouches for it.
func newTLSSink(b *testing.B, want int) (s *sink, ca string) {
	borrowed := httptest.NewTLSServer(nil)
	borrowed.Close()
	ca = filepath.Join(b.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: borrowed.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		b.Fatal(err)
	}
	s = &sink{done: make(chan struct{}), want: int64(want)}
	addr, _ := serve(b, s, &tls.Config{Certificates: borrowed.TLS.Certificates})
	s.url = "https://" + addr + "/hook"
	return s, ca
}

// BenchmarkTLS sends the same events to a handler in the clear and over TLS, and reports
// the ratio of the second rate to the first. limit=raw is that of a fasthttp client and a
// net/http server with 64 connections: what TLS itself costs both ends.
func BenchmarkTLS(b *testing.B) {
	pair := func(name string, bar float64, measure func(b *testing.B, secure bool) figure) {
		var clear figure
		for _, secure := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/tls=%t", name, secure), func(b *testing.B) {
				f := measure(b, secure)
				rate(b, b.N, 0)
				if secure {
					f.against(b, clear, bar)
				} else {
					clear = f
				}
			})
		}
	}
	pair("limit=raw", 0, func(b *testing.B, secure bool) figure {
		s, client := newSink(b, b.N), &fasthttp.Client{}
		if secure {
			var ca string
			s, ca = newTLSSink(b, b.N)
			client.TLSConfig = &tls.Config{RootCAs: x509.NewCertPool()}
			raw, _ := os.ReadFile(ca)
			client.TLSConfig.RootCAs.AppendCertsFromPEM(raw)
		}
		began := cpu()
		b.ResetTimer()
		postWhile(b, client, s.url, "", body(1), 64, upTo(b.N))
		b.StopTimer()
		return figure{rate(b, b.N, 0), reportCPU(b, began, b.N)}
	})
	for _, sh := range []shape{
		{in: 1, out: 1, connections: 256},
		{in: 100, out: 1, connections: 16},
		{in: 100, out: 100, connections: 16},
	} {
		pair(fmt.Sprintf("in=%d/out=%d", sh.in, sh.out), 0.8, func(b *testing.B, secure bool) figure {
			sh.tls = secure
			return walk(b, sh)
		})
	}
}

// BenchmarkSigned sends the same events, 100 in and 1 out per request, without
// signatures and with those of Standard Webhooks, and reports the ratio to the first
// rate. The handler does not verify them.
func BenchmarkSigned(b *testing.B) {
	var unsigned figure
	for _, version := range []string{"none", "v1", "v1a"} {
		b.Run("signing="+version, func(b *testing.B) {
			sh := shape{in: 100, out: 1, connections: 16}
			if version != "none" {
				sh.signing = version
			}
			f := walk(b, sh)
			rate(b, b.N, 0)
			if version == "none" {
				unsigned = f
			} else {
				f.against(b, unsigned, 0)
			}
		})
	}
}

// BenchmarkBatch sends the same events, 100 in per request, in larger and larger batches
// of at most 1 MiB, and reports the ratio to the rate of one event per request.
func BenchmarkBatch(b *testing.B) {
	var single figure
	for _, most := range []int{1, 5, 20, 100, 1000} {
		b.Run(fmt.Sprintf("maxEventsPerBatch=%d", most), func(b *testing.B) {
			f := walk(b, shape{in: 100, out: most, connections: 16})
			rate(b, b.N, 0)
			if most == 1 {
				single = f
			} else {
				f.against(b, single, 0)
			}
		})
	}
}
