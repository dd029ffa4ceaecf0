pub struct ClientAddress { pub ip: std::net::IpAddr }
pub struct RequestId(pub String);
impl RequestId { pub fn as_str(&self)->&str { &self.0 } }
