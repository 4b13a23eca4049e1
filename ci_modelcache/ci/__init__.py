"""What GitHub and GitLab say of a job, and what they are told of its outcome; no decision about models is made here."""
