// The Go proxy for comparison: net/http/httputil.ReverseProxy with the same forwarding headers and default GOMAXPROCS.
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	target, err := url.Parse(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
			r.Out.Header.Set("Via", "1.1 go")
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 1024},
	}
	log.Fatal(http.ListenAndServe(os.Args[1], proxy))
}
