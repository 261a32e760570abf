package consumer_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/carillon-events/carillon/consumer"
	"github.com/carillon-events/carillon/consumer/consumertest"
	"github.com/carillon-events/carillon/event"
)

// TestOverTLS has a sender with a client certificate, and one without, over real connections.
func TestOverTLS(t *testing.T) {
	ours := newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	saw := &seen{}
	h := newHandler(t, consumer.On(saw.completed), consumer.ClientCertificate(roots, "sender"))
	server := httptest.NewUnstartedServer(h)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	source := consumertest.NewSource(workspace)
	for _, c := range []struct {
		name   string
		shown  bool
		status int
	}{{"without", false, 401}, {"with", true, 200}} {
		client := server.Client()
		if c.shown {
			cert, key := ours.client(t, func(*x509.Certificate) {})
			client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
				RootCAs:      client.Transport.(*http.Transport).TLSClientConfig.RootCAs,
				Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
			}}}
			defer client.CloseIdleConnections()
		}
		sender := &consumertest.Sender{URL: server.URL + "/hook", Client: client, Schema: event.CloudEventSchemaV1_0}
		if a := send(t, sender, source.Event(run("1"))); a.Status != c.status || a.Delivered() != c.shown || a.GivenUp() == c.shown {
			t.Errorf("%s: answered %+v", c.name, a)
		}
		if yes, a, err := sender.Ask("eventgrid.azure.net"); err != nil || yes != c.shown {
			t.Errorf("%s: %+v, %v", c.name, a, err)
		}
	}
	if got := saw.take(); got != "RunCompleted 1" {
		t.Errorf("saw %s", got)
	}
}
