// A first service on OpenOrch, in Go with the standard library only: an account, an instance, one page.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

type credential struct {
	Slug     string `json:"slug"`
	Password string `json:"password"`
	Name     string `json:"name"`
}

type signedIn struct {
	Token struct {
		Token string `json:"token"`
	} `json:"token"`
}

func main() {
	if os.Getenv("OPENORCH_URL") == "" {
		log.Fatal("OPENORCH_URL is not set; set it to the daemon's URL, for example http://127.0.0.1:58231")
	}
	selfURL := os.Getenv("SELF_URL")
	if selfURL == "" {
		selfURL = "http://127.0.0.1:9311"
	}
	self, err := url.Parse(selfURL)
	if err != nil {
		log.Fatal(err)
	}
	own, err := loadOrMakeCredential()
	if err != nil {
		log.Fatalf("cannot store the credential: %v", err)
	}
	token, err := signIn(own)
	if err != nil {
		log.Fatalf("cannot sign in: %v", err)
	}
	if err := call("PUT", "/registry-svc/instance", token, map[string]string{"url": selfURL}, nil); err != nil {
		log.Fatalf("cannot register the instance: %v", err)
	}

	http.HandleFunc("/skeleton-svc/hello", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"hello": "world"}`)
	})
	log.Printf("listening on %s", self.Host)
	log.Fatal(http.ListenAndServe(self.Host, nil))
}

func signIn(own credential) (string, error) {
	var answer signedIn
	err := call("POST", "/user-svc/login", "", own, &answer)
	if err != nil && strings.Contains(err.Error(), "Slug not found") {
		err = call("POST", "/user-svc/register", "", own, &answer)
	}
	return answer.Token.Token, err
}

// The password is generated once, and stored before it is sent to the server.
func loadOrMakeCredential() (own credential, err error) {
	directory := os.Getenv("SKELETON_DATA")
	if directory == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return own, err
		}
		directory = filepath.Join(home, ".openorch", "skeleton-svc")
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return own, err
	}
	noise := make([]byte, 24)
	if _, err := rand.Read(noise); err != nil {
		return own, err
	}
	fresh, err := json.Marshal(credential{"skeleton-svc", "cred_" + hex.EncodeToString(noise), "Skeleton Svc"})
	if err != nil {
		return own, err
	}
	path := filepath.Join(directory, "credential.json")
	whole := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(whole)
	if err := os.WriteFile(whole, fresh, 0o600); err != nil {
		return own, err
	}
	// Never overwrites an existing one: if two copies start at the same time, one wins.
	if err := os.Link(whole, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return own, err
	}
	kept, err := os.ReadFile(path)
	if err != nil {
		return own, err
	}
	return own, json.Unmarshal(kept, &own)
}

func call(method, path, token string, input, output any) error {
	body, err := json.Marshal(input)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(method, os.Getenv("OPENORCH_URL")+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s: %s", response.Status, answer)
	}
	if output == nil {
		return nil
	}
	return json.Unmarshal(answer, output)
}
