package kubernetes

import (
	"context"
	"fmt"
	"io"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// client-go reads answers into memory whole, and a reflector all pages of a list. What
// answers is anybody's: who may write a workspace names the server. So both are bounded.
const (
	mostAnswer  = 32 << 20  // bytes of one answer, unpacked
	mostListed  = 128 << 20 // bytes of a list, all pages together
	mostObjects = 20_000    // of a list
	mostPages   = 1000      // of a list: 40 have all objects, unless a server gives fewer than it was asked for
)

var errLargeAnswer = fmt.Errorf("the cluster's answer has more than %d MiB", mostAnswer>>20)

// errLargeList is of a list that exceeds one of its bounds.
var errLargeList = fmt.Errorf("the list has more than %d objects or %d MiB: follow fewer of them, with --namespace or --selector", mostObjects, mostListed>>20)

// errManyPages is of a list that goes on without objects.
var errManyPages = fmt.Errorf("the list has more than %d pages: it has no end, or the server gives far fewer than the %d objects of a page", mostPages, pageOfList)

// listing counts what was read of one list.
type listing struct {
	bytes   int64
	objects int
	pages   int
}

type listingKey struct{}

// list reads one page of a list.
func (l *listing) list(ctx context.Context, objects dynamic.ResourceInterface, o metav1.ListOptions) (*unstructured.UnstructuredList, error) {
	if o.Continue == "" { // it begins anew
		*l = listing{}
	}
	if l.pages++; l.pages > mostPages {
		return nil, errManyPages
	}
	page, err := objects.List(context.WithValue(ctx, listingKey{}, l), o)
	if err != nil {
		return nil, err
	}
	if l.objects += len(page.Items); l.objects > mostObjects {
		return nil, errLargeList
	}
	return page, nil
}

// bounded bounds the answers to requests that are no watches. Of a watch client-go reads
// one event at a time, and bounds that itself.
type bounded struct{ next http.RoundTripper }

// RoundTrip satisfies http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err != nil || res.StatusCode == http.StatusOK && r.URL.Query().Get("watch") != "" {
		return res, err
	}
	l, ok := r.Context().Value(listingKey{}).(*listing)
	if !ok {
		l = &listing{}
	}
	res.Body = &boundedBody{ReadCloser: res.Body, left: mostAnswer, listing: l}
	return res, nil
}

type boundedBody struct {
	io.ReadCloser
	left    int64
	listing *listing
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	b.listing.bytes += int64(n)
	switch {
	case b.left < 0:
		return 0, errLargeAnswer
	case b.listing.bytes > mostListed:
		return 0, errLargeList
	}
	return n, err
}

// paged is a ListWatch that is asked for pages and not for a watch that begins with
// everything: that has no end to bound.
type paged struct{ cache.ListWatch }

// IsWatchListSemanticsUnSupported is what a reflector asks.
func (*paged) IsWatchListSemanticsUnSupported() bool { return true }
