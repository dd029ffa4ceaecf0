module skeleton-svc

go 1.22
